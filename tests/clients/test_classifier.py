"""Both classifiers over both protocols against a server that fails as told."""

import asyncio
import contextlib
import io
import os
import queue
import threading
import time

import numpy as np
import pytest
from fake_triton import serve_fake, wait_for
from PIL import Image

from delugeserve_client import AsyncClassifier, Classifier, RetryPolicy, aio, batching
from delugeserve_client.connecting import connect_async
from delugeserve_client.errors import (
    AddressError,
    ArgumentError,
    ClassifierClosed,
    ForkedClassifier,
    InferenceFailed,
    QueueFull,
    RequestRefused,
    ServerDraining,
    ServerOverloaded,
    ServerTimeout,
    ServerUnavailable,
    UnsuitableModel,
)
from delugeserve_client.images import inputs

ONCE = RetryPolicy(attempts=1)


def pixel(value):
    return np.full((2, 2, 3), value, np.uint8)


def png(value):
    stream = io.BytesIO()
    Image.fromarray(pixel(value)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(params=["grpc", "http"])
def served(request):
    with serve_fake(request.param) as (fake, url):
        yield fake, url


@pytest.fixture(params=[Classifier, AsyncClassifier], ids=["threads", "asyncio"])
def classify(request, served):
    """A function that classifies images with a new classifier of either kind."""
    _, url = served

    def threads(images, **options):
        with Classifier(url, **options) as classifier:
            return classifier.classify(images)

    def loops(images, **options):
        async def use():
            async with AsyncClassifier(url, **options) as classifier:
                return await classifier.classify(images)

        return asyncio.run(use())

    return threads if request.param is Classifier else loops


def test_one_image_and_many(classify):
    assert classify(pixel(5)).top.index == 2
    results = classify([pixel(value) for value in range(11)])
    assert [result.top.index for result in results] == [value % 3 for value in range(11)]
    assert [result.source for result in results] == [f"image {n}" for n in range(1, 12)]
    assert classify([]) == []


def test_requests_are_full_if_that_is_wanted(served, monkeypatch):
    fake, url = served
    monkeypatch.setattr(batching, "_LONGEST_HELD", -1.0)  # every source is slow

    async def asynchronously(images, **options):
        async with AsyncClassifier(url) as classifier:
            return [result async for result in classifier.stream(images, **options)]

    with Classifier(url) as classifier:
        count = 2 * classifier.model.images_per_request
        for sent, options in ((2, {"full_requests": True}), (3, {})):
            before = fake.requests
            list(classifier.stream(iter([pixel(1)] * count), **options))
            assert min(3, fake.requests - before) == sent
            before = fake.requests
            asyncio.run(asynchronously(iter([pixel(1)] * count), **options))
            assert min(3, fake.requests - before) == sent


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        ("UNAVAILABLE", "Exceeds maximum queue size", QueueFull),
        ("RESOURCE_EXHAUSTED", "Too many requests.", ServerOverloaded),
        ("UNAVAILABLE", "No server is ready. Try again.", ServerDraining),
        ("INVALID_ARGUMENT", "unexpected shape", RequestRefused),
        ("INTERNAL", "it broke", InferenceFailed),
    ],
)
def test_failures_have_types_and_are_repeated_where_that_helps(
    served, classify, status, message, kind
):
    fake, url = served
    fake.failures = [(status, message)] * 2
    with pytest.raises(kind) as caught:
        classify(pixel(1), retry=ONCE)
    assert type(caught.value) is kind
    assert caught.value.url == url
    assert fake.requests == 1
    if kind is QueueFull:
        assert caught.value.model == "fake"
    fake.failures = [(status, message)]
    again = kind not in (RequestRefused, InferenceFailed)
    if again:
        assert classify(pixel(1)).top.index == 1
    else:
        with pytest.raises(kind):
            classify(pixel(1))
    assert fake.requests == 1 + 1 + again


def test_a_connection_that_breaks_is_made_again():
    with serve_fake("http") as (fake, url), Classifier(url) as classifier:
        fake.failures = [("DROP", "")] * 2
        assert classifier.classify(pixel(1)).top.index == 1


def test_the_deadline(served, classify):
    fake, _ = served
    fake.delay = 60
    start = time.monotonic()
    with pytest.raises(ServerTimeout) as caught:
        classify(pixel(1), timeout=0.3)
    assert caught.value.timeout == 0.3
    assert time.monotonic() - start < 30
    assert 0 < fake.timeout_us <= 300_000  # Triton drops it from its queue as well


def test_no_deadline(served, classify):
    fake, _ = served
    assert classify(pixel(1), timeout=float("inf")).top.index == 1
    assert not fake.timeout_us


def test_headers_and_keys(served, classify, monkeypatch):
    monkeypatch.setenv("DELUGESERVE_API_KEY", "ds_secret")
    fake, _ = served
    classify(pixel(1), headers={"X-Team": "birds"})
    assert fake.headers["x-team"] == "birds"
    assert fake.headers["authorization"] == "Bearer ds_secret"


@pytest.mark.parametrize("kind", [Classifier, AsyncClassifier])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("timeout", value) for value in (0, -1, float("nan"), "30", None, True)),
        *(("hedge", value) for value in (0, -1.0, float("inf"))),
        *(("in_flight", value) for value in (0, 1.5)),
        ("max_pixels", 0),
        ("decode", "cloud"),
        ("shared_memory", "yes"),
        ("compression", "zip"),
        *(("headers", {"x": value}) for value in ("a\nb", "é", 3, None)),
        *(("headers", {name: "x"}) for name in ("a b", "", "x-bin", "x\n", 3)),
    ],
)
def test_senseless_arguments(kind, name, value):
    with pytest.raises(ArgumentError) as caught:
        kind("localhost:1", **{name: value})
    assert (caught.value.argument, caught.value.value) == (name, repr(value))
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("url", ["http://localhost:1", "grpc://example.com:1"])
@pytest.mark.parametrize("kind", [Classifier, AsyncClassifier])
def test_shared_memory_where_there_is_none(kind, url):
    with pytest.raises(ArgumentError) as caught:
        kind(url, shared_memory="system")
    assert caught.value.argument == "shared_memory"


def test_numbers_of_numpy(classify):
    """As a configuration or a computation may give them."""
    options = {"timeout": np.float32(30), "in_flight": np.int64(2), "max_pixels": np.uint16(99)}
    assert classify(pixel(1), **options).top.index == 1


def test_no_address():
    with pytest.raises(AddressError):
        Classifier([])


def test_after_close(served):
    _, url = served
    classifier = Classifier(url)
    classifier.close()
    classifier.close()
    for use in (
        lambda: classifier.classify(pixel(1)),
        lambda: classifier.classify([pixel(1)] * 9),
        lambda: classifier.stream([pixel(1)]),
        lambda: classifier.infer(pixel(1)[None]),
    ):
        with pytest.raises(ClassifierClosed):
            use()

    async def use():
        asynchronous = AsyncClassifier(url)
        async with asynchronous:
            pass
        with pytest.raises(ClassifierClosed):
            await asynchronous.classify(pixel(1))
        with pytest.raises(ClassifierClosed):
            await asynchronous.connect()

    asyncio.run(use())


@pytest.mark.parametrize("images", [pixel(1), [pixel(1)] * 9], ids=["one", "many"])
def test_closing_wakes_who_waits_in_another_thread(served, images):
    fake, url = served
    fake.delay = 60
    classifier = Classifier(url, timeout=120)
    found = queue.SimpleQueue()

    def work():
        try:
            found.put(classifier.classify(images))
        except Exception as error:
            found.put(error)

    threading.Thread(target=work, daemon=True).start()
    wait_for(lambda: fake.requests)
    classifier.close()
    assert type(found.get(timeout=30)) is ClassifierClosed


def test_any_number_of_threads_share_a_classifier(served):
    _, url = served
    answers = {}
    with Classifier(url) as classifier:

        def work(value):
            answers[value] = classifier.classify(pixel(value)).top.index

        threads = [threading.Thread(target=work, args=(value,)) for value in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert answers == {value: value % 3 for value in range(20)}


def test_a_second_event_loop(served):
    _, url = served
    classifier = AsyncClassifier(url)

    async def use():
        return (await classifier.classify(pixel(1))).top.index

    assert [asyncio.run(use()) for _ in range(2)] == [1, 1]
    with asyncio.Runner() as one, asyncio.Runner() as other:
        assert [runner.run(use()) for runner in (one, other, one, other)] == [1] * 4


def test_nothing_is_kept_for_event_loops_that_are_closed(served):
    _, url = served
    classifier = AsyncClassifier(url)

    async def use():
        return (await classifier.classify(pixel(1))).top.index

    assert [asyncio.run(use()) for _ in range(4)] == [1] * 4
    assert len(classifier._sessions) == 1
    asyncio.run(classifier.close())
    assert classifier._sessions == {}


def test_tasks_share_a_connection(served, monkeypatch):
    """Also where one of them, or the first, is cancelled while it is made."""
    _, url = served
    asked = []

    async def counted(*arguments):
        asked.append(arguments)
        return await connect_async(*arguments)

    monkeypatch.setattr(aio, "connect_async", counted)

    async def use():
        async with contextlib.AsyncExitStack() as stack:
            classifier = AsyncClassifier(url)
            stack.push_async_callback(classifier.close)
            tasks = [asyncio.create_task(classifier.classify(pixel(n))) for n in range(9)]
            await asyncio.sleep(0)
            tasks[0].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        return [result.top.index for result in results[1:]]

    assert asyncio.run(use()) == [n % 3 for n in range(1, 9)]
    assert len(asked) == 1


def test_closing_wakes_who_waits_for_the_connection(monkeypatch):
    async def hang(*_):
        await asyncio.sleep(60)

    monkeypatch.setattr(aio, "connect_async", hang)

    async def use():
        classifier = AsyncClassifier("localhost:1")
        waiting = asyncio.create_task(classifier.classify(pixel(1)))
        await asyncio.sleep(0.01)
        await classifier.close()
        with pytest.raises(ClassifierClosed):
            await waiting

    asyncio.run(use())


def test_downloads_that_hang_delay_no_other_calls(served, monkeypatch):
    """Nor does what else the program runs in the event loop's own threads."""
    _, url = served
    released = threading.Event()
    monkeypatch.setattr(inputs, "download", lambda address: released.wait(60) and b"")

    async def use():
        async with AsyncClassifier(url) as classifier:
            hung = [
                asyncio.create_task(classifier.classify(f"http://h/{n}", on_error="return"))
                for n in range(20)
            ]
            loop = asyncio.get_running_loop()
            hung += [loop.run_in_executor(None, released.wait, 60) for _ in range(40)]
            await asyncio.sleep(0.01)
            found = [await classifier.classify(one) for one in (pixel(1), png(2))]
            found += await classifier.classify([pixel(1)] * 9)
            released.set()
            await asyncio.gather(*hung)
            return [result.top.index for result in found]

    assert asyncio.run(use()) == [1, 2, *[1] * 9]


@pytest.mark.slow
def test_a_forked_process(served):
    _, url = served
    with Classifier(url) as classifier:
        assert classifier.classify(pixel(1)).top.index == 1
        outcome, answer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                said = str(classifier.classify(pixel(1)).top.index)
            except ForkedClassifier as error:
                said = f"refused {error.pid == os.getppid()}"
            except BaseException as error:
                said = repr(error)
            os.write(answer, said.encode())
            os._exit(0)
        os.close(answer)
        said = os.read(outcome, 100).decode()
        os.waitpid(pid, 0)
        assert said == ("1" if url.startswith("http") else "refused True")
        assert classifier.classify(pixel(1)).top.index == 1


def collect(results, each=lambda: None):
    """Return the classes of all results before an error, and the error."""
    found = []
    try:
        for result in results:
            found.append(result.top.index)
            each()
    except Exception as error:
        return found, error
    return found, None


def test_results_before_an_error_are_yielded(served):
    fake, url = served

    def fail():
        if fake.requests > 5:
            fake.failures = [("INVALID_ARGUMENT", "enough")] * 99

    with Classifier(url) as classifier:
        found, error = collect(classifier.stream(map(pixel, range(200))), fail)
    assert type(error) is RequestRefused
    assert len(found) >= 4
    assert found == [value % 3 for value in range(len(found))]


def test_an_iterable_that_fails(served):
    _, url = served

    def given():
        yield from [pixel(0), pixel(1)]
        raise LookupError("no more")

    with Classifier(url) as classifier:
        found, error = collect(classifier.stream(given()))
        assert (found, type(error)) == ([0, 1], LookupError)


def test_an_endless_stream_is_read_as_needed(served):
    _, url = served
    taken = 0

    def given():
        nonlocal taken
        while True:
            taken += 1
            yield pixel(taken)

    with Classifier(url, in_flight=2) as classifier:
        results = classifier.stream(given())
        for number in range(1, 50):
            assert next(results).top.index == number % 3
        results.close()
    assert taken < 50 + 4 * 10


def test_an_asynchronous_iterable_is_read_while_requests_are_answered(served):
    fake, url = served
    fake.delay = 60  # until it is released

    async def given():
        for value in range(12):
            yield pixel(value)
        fake.released.set()

    async def use():
        async with AsyncClassifier(url, in_flight=1, timeout=120) as classifier:
            return [result.top.index async for result in classifier.stream(given())]

    assert asyncio.run(use()) == [value % 3 for value in range(12)]


def test_an_asynchronous_iterable(served):
    _, url = served

    async def given():
        for value in range(10):
            await asyncio.sleep(0)
            yield pixel(value)

    async def use():
        async with AsyncClassifier(url) as classifier:
            return [result.top.index async for result in classifier.stream(given())]

    assert asyncio.run(use()) == [value % 3 for value in range(10)]


def test_servers_of_different_models_are_refused():
    with serve_fake("http") as (_, first), serve_fake("grpc") as (_, second):
        with Classifier([first, second]) as classifier:
            assert classifier.model.digest == "0123456789abcdef"
            assert {classifier.classify(pixel(1)).top.index for _ in range(4)} == {1}
        with pytest.raises(ServerUnavailable):
            Classifier(["127.0.0.1:1", "http://127.0.0.1:1"], retry=ONCE)
        with Classifier(["127.0.0.1:1", first]) as classifier:  # one of them is down
            assert classifier.classify([pixel(1)] * 9)[0].top.index == 1


def test_a_server_that_does_not_decode(served):
    _, url = served
    with pytest.raises(UnsuitableModel) as caught:
        Classifier(url, decode="server")
    assert caught.value.model == "fake"
    with Classifier(url) as classifier:  # auto asks, and goes on decoding here
        results = classifier.classify([b"no image"] * 9, on_error="return")
    assert all(result.error is not None for result in results)
