import io
import itertools

import numpy as np
import pytest
from PIL import Image

from delugeserve_client import ForkedClassifier, batching, streaming
from delugeserve_client.batching import Chunk, chunks
from delugeserve_client.core.decoding import DecodingChoice
from delugeserve_client.images.reading import Ready
from delugeserve_client.served import read_model
from delugeserve_client.streaming import AskServer, Part, Window, parts
from delugeserve_client.transports.messages import pixel_request


class Answer:
    def __init__(self, is_done=False):
        self.is_done = is_done

    def done(self):
        return self.is_done


def pixels(size=2):
    return Ready("x", np.zeros((size, size, 3), np.uint8))


def request_of(nbytes):
    return pixel_request("m", "", "image", np.zeros((1, 1, nbytes // 3, 3), np.uint8), {})


def run(images, size, choice, takes_encoded=True, seconds=lambda place: 1.0, decode="auto"):
    """Return the parts of a stream, as (first, place, is_trial, number of images)."""
    found, steps = [], parts(images, size, decode, choice)
    step = next(steps)
    while True:
        if isinstance(step, AskServer):
            step = steps.send(takes_encoded)
            continue
        found.append((step.first, step.place, step.is_trial, len(list(step.images))))
        if not step.is_trial:
            return found
        step = steps.send(seconds(step.place))


def test_trials_alternate_and_the_faster_place_is_kept():
    choice = DecodingChoice()
    images = iter([b"x"] * 21)
    found = run(images, 4, choice, seconds={"client": 2.0, "server": 1.0}.get)
    assert found == [
        (1, "client", True, 4),
        (5, "server", True, 4),
        (9, "client", True, 4),
        (13, "server", True, 4),
        (17, "server", False, 5),
    ]
    assert run([b"x"] * 9, 4, choice) == [(1, "server", False, 9)]
    assert run([b"x"], 4, choice) == [(1, "server", False, 1)]


@pytest.mark.parametrize(
    ("images", "takes_encoded"),
    [([b"x"] * 3, True), ([b"x"] * 9, False), ([np.zeros((2, 2, 3), np.uint8)] * 9, True)],
    ids=["short", "refused", "pixels"],
)
def test_no_trial(images, takes_encoded):
    for given in (images, iter(images)):
        expected = [(1, "client", False, len(images))]
        assert run(given, 4, DecodingChoice(), takes_encoded) == expected


@pytest.mark.parametrize("decode", ["auto", "client"])
def test_requests_are_full_if_that_is_wanted(decode):
    for full in (True, False):
        images = iter([b"x"] * 9)
        steps = parts(images, 4, decode, DecodingChoice(), full=full)
        step = next(steps)
        if isinstance(step, AskServer):
            step = steps.send(False)
        assert step.full is full


def test_no_trial_of_a_slow_source(monkeypatch):
    """A request's worth would take long to come, and hold back what is there."""
    monkeypatch.setattr(streaming.time, "monotonic", itertools.count().__next__)
    assert run(iter([b"x"] * 9), 4, DecodingChoice()) == [(1, "client", False, 9)]


def test_a_part_where_the_caller_wants_it():
    steps = parts([b"x"] * 9, 4, "server", DecodingChoice())
    assert next(steps) == Part([b"x"] * 9, 1, "server")


def test_the_bytes_in_flight_are_bounded():
    window = Window()
    for _ in range(3):
        assert window.has_room(100)
        window.add(Chunk(()), request_of(100 * 2**20), Answer())
    assert not window.has_room(100)
    window.pop()
    assert window.has_room(100)
    assert not window.has_room(2)


def test_decoded_images_are_held_once():
    model = read_model(
        {
            "name": "m",
            "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 2, 2, 3]}],
            "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}],
        },
        {"max_batch_size": 4},
    )
    chunk = Chunk((pixels(), pixels()))
    assert chunk.request(model, None, 1).nbytes == 24
    assert all(image.content is None for image in chunk.images)


def test_a_window_knows_what_is_answered():
    window, slow, fast = Window(), Answer(), Answer(is_done=True)
    assert window.is_idle()
    window.add(Chunk(()), None, slow)
    assert (window.is_idle(), window.is_answered) == (False, False)
    window.add(Chunk(()), None, fast)
    assert (window.is_idle(), window.is_answered) == (True, False)
    slow.is_done = True
    assert window.is_answered


def test_requests_do_not_survive_a_fork(monkeypatch):
    window, cancelled = Window(), []
    window.add(Chunk(()), None, Answer())
    window.check_process()
    monkeypatch.setattr(streaming.os, "getpid", lambda: -1)
    with pytest.raises(ForkedClassifier) as caught:
        window.check_process()
    assert caught.value.pid > 0
    window.cancel(cancelled.append)  # might wait for a lock that a thread of the parent holds
    assert cancelled == []


@pytest.mark.parametrize(("idle", "sizes"), [(True, [2, 1, 1, 1, 1]), (False, [4, 2])])
def test_slow_images_do_not_wait_for_a_full_request(monkeypatch, idle, sizes):
    now = 0.0
    monkeypatch.setattr(batching.time, "monotonic", lambda: now)

    def slow():
        nonlocal now
        for _ in range(6):
            yield pixels()
            now += 0.25

    found = chunks(slow(), 4, "raise", lambda: idle)
    assert [len(chunk.images) for chunk in found] == sizes


def test_an_encoded_image_stays_for_its_error():
    stream = io.BytesIO()
    Image.new("RGB", (2, 2)).save(stream, "PNG")
    ready = Ready("x", stream.getvalue())
    assert Chunk((ready,), encoded=True).readable == [ready]
