"""The client against a real server with the model of conftest.py."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import wait_until

from delugeserve.errors import PortError
from delugeserve.serving.supervisor import serve
from delugeserve_client import AsyncClassifier, Classifier, RetryPolicy
from delugeserve_client.errors import (
    BatchError,
    ImageError,
    InferenceFailed,
    ModelUnavailable,
    OutputError,
    ServerUnavailable,
    UnsuitableModel,
    WrongProtocol,
)
from delugeserve_client.triton import import_triton

pytest.importorskip("onnxruntime", reason="the backends need the extra 'server'")
if shutil.which("tritonserver") is None:
    pytest.importorskip("pytriton.constants", reason="there is no tritonserver (nvidia-pytriton)")

LABELS = ["red", "green: grass", "blue"]
MAX_BATCH = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory, write_colour_model):
    repository = tmp_path_factory.mktemp("repository")
    write_colour_model(repository / "colour")
    write_colour_model(repository / "nameless", labels="")
    # The first request waits for others to batch, and the queue has no room for a second.
    queue = "max_queue_delay_microseconds: 50000 default_queue_policy { max_queue_size: 1 }"
    write_colour_model(repository / "impatient", queue=queue)
    write_colour_model(repository / "floating", dtype="TYPE_FP32")
    with serve(repository, grpc_port=0, http_port=0, metrics_port=None, direct=True) as running:
        yield running


@pytest.fixture(params=["grpc", "http"])
def url(request, server):
    return server.grpc_url if request.param == "grpc" else f"http://{server.http_url}"


def solid(colour, size=(30, 20)):
    return np.asarray(Image.new("RGB", size, colour))


def test_classifies_in_order_with_labels_and_probabilities(url, photos):
    images = [
        solid("blue"),
        photos / "a red.png",
        str(photos / "below" / "blue.JPG"),
        Image.new("RGB", (9, 99), "lime"),
    ]
    with Classifier(url, "colour") as classifier:
        assert classifier.model.image_shape == (8, 12, 3)
        assert classifier.model.max_batch_size == MAX_BATCH
        results = classifier.classify(images, top_k=2)
    assert [result.top.label for result in results] == ["blue", "red", "blue", "green: grass"]
    assert [result.source for result in results] == [
        "image 1",
        str(photos / "a red.png"),
        str(photos / "below" / "blue.JPG"),
        "image 4",
    ]
    assert all(len(result.predictions) == 2 for result in results)
    assert results[0].top.index == 2
    assert results[0].top.probability == pytest.approx(np.exp(2.55) / (np.exp(2.55) + 2), abs=1e-5)


def test_many_images_keep_their_order(url):
    colours = ["red", "lime", "blue"] * 15 + ["red"]
    with Classifier(url, "colour") as classifier:
        results = classifier.classify([solid(colour) for colour in colours], top_k=1)
    expected = {"red": 0, "lime": 1, "blue": 2}
    assert [result.top.index for result in results] == [expected[colour] for colour in colours]


def test_top_k_ends_at_the_number_of_classes(url):
    with Classifier(url, "colour") as classifier:
        (result,) = classifier.classify([solid("red")], top_k=99)
        assert sum(prediction.probability for prediction in result.predictions) == pytest.approx(1)
        assert {prediction.label for prediction in result.predictions} == set(LABELS)
        assert classifier.classify([]) == []


def test_classes_without_labels_are_numbered(url):
    with Classifier(url, "nameless") as classifier:
        (result,) = classifier.classify([solid("blue")], top_k=1)
    assert result.top.label == "class 2"


def test_unreadable_images(url, photos):
    images = [photos / "broken.jpg", solid("red"), photos / "missing.png", photos]
    with Classifier(url, "colour") as classifier:
        results = classifier.classify(images, on_error="return")
        assert [result.error is None for result in results] == [False, True, False, False]
        assert results[1].top.label == "red"
        for result, image in zip(results, images, strict=True):
            assert result.error is None or str(image) in result.error.problem
        with pytest.raises(ImageError, match=re.escape("broken.jpg")):
            classifier.classify(images)
        assert len(classifier.classify(images[:1] * 20, on_error="return")) == 20


def test_infer_takes_any_number_of_images(url):
    pixels = np.random.default_rng(0).integers(0, 256, (23, 8, 12, 3), dtype=np.uint8)
    with Classifier(url, "colour") as classifier:
        logits = classifier.infer(pixels, "logits")
        probabilities = classifier.infer(pixels)
        assert classifier.infer(pixels[:0]).shape == (0, 3)
        assert classifier.infer(pixels[::-1, :, ::-1], "logits").shape == (23, 3)
        with pytest.raises(BatchError) as caught:
            classifier.infer(pixels.astype(np.float32))
        assert (caught.value.dtype, caught.value.expected_dtype) == ("float32", "uint8")
        with pytest.raises(OutputError):
            classifier.infer(pixels, "scores")
    np.testing.assert_allclose(logits, 0.01 * pixels.mean(axis=(1, 2)), rtol=1e-5)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)


def test_one_grpc_classifier_serves_several_threads(server):
    with Classifier(server.grpc_url, "colour") as classifier, ThreadPoolExecutor(4) as pool:
        colours = ["red", "lime", "blue"] * 10
        answers = pool.map(lambda c: classifier.classify([solid(c)], 1)[0].top.label, colours)
        names = {"red": "red", "lime": "green: grass", "blue": "blue"}
        assert list(answers) == [names[colour] for colour in colours]


def test_models_that_do_not_classify_raw_images(url):
    with pytest.raises(UnsuitableModel, match="FP32") as caught:
        Classifier(url, "floating")
    assert caught.value.model == "floating"


def test_several_models_and_none_named(url):
    with pytest.raises(ModelUnavailable) as caught:
        Classifier(url)
    assert caught.value.model is None
    assert caught.value.served == ("colour", "floating", "impatient", "nameless")


def test_the_servers_only_model(tmp_path, write_colour_model):
    write_colour_model(tmp_path / "colour")
    with serve(tmp_path, grpc_port=0, http_port=0, metrics_port=None, direct=True) as running:
        for url in (running.grpc_url, f"http://{running.http_url}"):
            with Classifier(url) as classifier:
                assert classifier.model.name == "colour"
                assert classifier.classify([solid("blue")])[0].top.index == 2

        async def use() -> None:
            async with AsyncClassifier(running.grpc_url) as classifier:
                assert (await classifier.connect()).name == "colour"

        asyncio.run(use())


def test_unknown_models_and_versions(url):
    with pytest.raises(ModelUnavailable, match="'colour'") as caught:
        Classifier(url, "color")
    assert caught.value.model == "color"
    assert caught.value.served == ("colour", "floating", "impatient", "nameless")
    with pytest.raises(ModelUnavailable) as caught:
        Classifier(url, "colour", model_version="7")
    assert (caught.value.model, caught.value.version) == ("colour", "7")
    with Classifier(url, "colour", model_version="1") as classifier:
        assert classifier.classify([solid("red")])[0].top.label == "red"


def test_ports_of_the_other_protocol(server):
    with pytest.raises(WrongProtocol) as caught:
        Classifier(server.http_url, "colour")
    assert caught.value.found == "http"
    with pytest.raises(WrongProtocol) as caught:
        Classifier(f"http://{server.grpc_url}", "colour")
    assert caught.value.found == "grpc"


def test_refused_requests_are_explained(url):
    with Classifier(url, "colour") as classifier:
        # As if the model had been exported again with a smaller batch, meanwhile.
        object.__setattr__(classifier.model, "max_batch_size", MAX_BATCH + 1)
        with pytest.raises(InferenceFailed, match="batch-size must be <= 4"):
            classifier.infer(np.zeros((MAX_BATCH + 1, 8, 12, 3), np.uint8))


def test_a_server_that_stops_and_comes_back(tmp_path, write_colour_model):
    write_colour_model(tmp_path / "colour")
    for attempt in range(3):
        try:
            stop_and_come_back(tmp_path)
            return
        except PortError:  # another program took the port while the server was down
            if attempt == 2:
                raise


def stop_and_come_back(repository):
    with serve(repository, grpc_port=0, http_port=None, metrics_port=None, direct=True) as first:
        retry = RetryPolicy(attempts=5)  # by default it would wait for the server
        classifier = Classifier(first.grpc_url, "colour", retry=retry)
        assert classifier.classify([solid("red")])[0].top.index == 0
    with classifier:
        for _ in range(4):  # long enough for gRPC to wait longer from one attempt to the next
            with pytest.raises(ServerUnavailable):
                classifier.classify([solid("red")])
        port = int(first.grpc_url.rpartition(":")[2])
        with serve(repository, grpc_port=port, http_port=None, metrics_port=None, direct=True):
            assert classifier.classify([solid("red")])[0].top.index == 0


def test_shared_memory(server):
    pixels = np.random.default_rng(0).integers(0, 256, (23, 8, 12, 3), dtype=np.uint8)
    client = import_triton("grpc").InferenceServerClient(server.grpc_url)

    def regions():
        return client.get_system_shared_memory_status(as_json=True).get("regions", {})

    with Classifier(server.grpc_url, "colour", shared_memory="off") as classifier:
        expected = classifier.infer(pixels)
        assert regions() == {}
    with Classifier(server.grpc_url, "colour", shared_memory="system") as classifier:
        wait_until(lambda: np.array_equal(classifier.infer(pixels), expected) and regions())
        assert not list(Path("/dev/shm").glob(f"delugeserve-{os.getpid()}-*"))
        placed = classifier._sessions.connections[0]._regions
        assert placed._free
        for _ in range(3):
            np.testing.assert_array_equal(classifier.infer(pixels), expected)
            np.testing.assert_array_equal(classifier.infer(pixels[:1]), expected[:1])
        client.unregister_system_shared_memory()  # as if the server had started again
        assert regions() == {}
        # It gets new ones.
        wait_until(lambda: np.array_equal(classifier.infer(pixels), expected) and regions())
        np.testing.assert_array_equal(classifier.infer(pixels), expected)
        assert not placed._off

    async def use():
        async with AsyncClassifier(server.grpc_url, "colour", shared_memory="system") as one:
            while not regions():
                np.testing.assert_array_equal(await one.infer(pixels), expected)
            np.testing.assert_array_equal(await one.infer(pixels), expected)

    asyncio.run(use())
    assert regions() == {}
    assert not list(Path("/dev/shm").glob(f"delugeserve-{os.getpid()}-*"))
    client.close()


def test_async_classifier(server, photos):
    async def use() -> None:
        async with AsyncClassifier(server.grpc_url, "colour") as classifier:
            images = [solid("blue"), photos / "broken.jpg", *[solid("lime")] * 21]
            results, other = await asyncio.gather(
                classifier.classify(images, top_k=1, on_error="return"),
                classifier.classify([solid("red")]),
            )
            assert [r.error is None for r in results] == [True, False, *[True] * 21]
            assert [r.top.index for r in results if r.error is None] == [2, *[1] * 21]
            assert other[0].top.label == "red"
            pixels = np.random.default_rng(0).integers(0, 256, (23, 8, 12, 3), dtype=np.uint8)
            logits = await classifier.infer(pixels, "logits")
            np.testing.assert_allclose(logits, 0.01 * pixels.mean(axis=(1, 2)), rtol=1e-5)
            with pytest.raises(ImageError, match=re.escape("broken.jpg")):
                await classifier.classify(images)
        for url, model, kind in (
            (server.grpc_url, "color", ModelUnavailable),
            (server.grpc_url, "floating", ModelUnavailable),
            (server.http_url, "colour", ServerUnavailable),
        ):
            with pytest.raises(kind):
                await AsyncClassifier(url, model).connect()
        async with AsyncClassifier(f"http://{server.http_url}", "colour") as classifier:
            assert (await classifier.classify(solid("blue"))).top.index == 2

    asyncio.run(use())


def test_decoding_leaves_the_event_loop_free(server):
    blocked = threading.Event()

    def images():
        # A slow disk, until the event loop's own timer ends the wait: a blocked loop never does.
        assert blocked.wait(60)
        yield solid("red")

    async def use() -> None:
        async with AsyncClassifier(server.grpc_url, "colour") as classifier:
            asyncio.get_running_loop().call_later(0.05, blocked.set)
            assert len(await classifier.classify(images())) == 1

    asyncio.run(use())
