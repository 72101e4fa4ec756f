import io
import threading
from concurrent.futures import Future

import numpy as np
import pytest
from PIL import Image

from delugeserve_client import ClassifierClosed, ImageError
from delugeserve_client.images import inputs, reading
from delugeserve_client.images.reading import Reader
from delugeserve_client.preprocessing import Preprocessing

PREPARE = Preprocessing(2, 2, 2)


def photo(value, size=(40, 30)):
    stream = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(params=["threads", "inline"])
def reader(request, monkeypatch):
    monkeypatch.setattr(reading, "_WORTH_A_THREAD", 0.0 if request.param == "threads" else 99.0)
    found = Reader(PREPARE)
    found._cores = 4
    yield found
    found.close()


@pytest.mark.parametrize("encoded", [False, True])
def test_images_stay_in_order(reader, encoded):
    images = [photo(value) if value % 5 else b"broken" for value in range(50)]
    found = list(reader.stream(images, 8, encoded, first=100))
    assert [one.source for one in found] == [f"image {100 + n}" for n in range(50)]
    for value, one in enumerate(found):
        if encoded:
            assert one.content == images[value]
        elif value % 5:
            assert one.content[0, 0, 0] == value
        else:
            assert isinstance(one.error, ImageError)


def test_few_are_read_ahead(reader):
    taken = 0

    def images():
        nonlocal taken
        for value in range(100):
            taken += 1
            yield photo(value)

    found = reader.stream(images(), 8, False)
    for number in range(1, 90):
        next(found)
        assert taken <= number + 8 + 1


def test_images_are_decoded_at_the_same_time(monkeypatch):
    monkeypatch.setattr(reading, "_WORTH_A_THREAD", 0.0)
    reader = Reader(PREPARE)
    reader._cores = 4
    together = threading.Barrier(3, timeout=60)
    seen = []

    class Meeting(io.BytesIO):
        def read(self):
            if len(seen) >= 4:  # the first are read one by one, to see how long they take
                together.wait()
            seen.append(1)
            return photo(1)

    assert len(list(reader.stream([Meeting() for _ in range(4 + 3)], 8, False))) == 7
    reader.close()


@pytest.mark.parametrize("first", [b"no image", photo(1, (1, 1))], ids=["broken", "tiny"])
def test_the_first_images_do_not_decide_for_all(monkeypatch, first):
    """Threads are used as soon as images take long, and no longer when they do not."""
    monkeypatch.setattr(reading, "_KEPT", 8)
    reader = Reader(PREPARE)
    reader._cores, used = 4, []
    monkeypatch.setattr(reader, "submit", lambda *image, encoded: used.append(image) or wait(image))
    slow = {b"slow"}

    def wait(image):
        found = Future()
        found.set_result(reading.Ready(image[1], b""))
        return found

    def read(image, source, *, encoded):
        clock[0] += 0.1 if image in slow else 0.0
        error = ImageError("x", "y", source=source) if image == b"no image" else None
        return reading.Ready(source, b"", error)

    clock = [0.0]
    monkeypatch.setattr(reading.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(reader, "read", read)
    list(reader.stream([first] * 5 + [b"slow"] * 20, 4, False))
    assert 8 <= len(used) <= 16
    used.clear()
    list(reader.stream([b"slow"] * 4 + [photo(1)] * 100, 4, False))
    assert len(used) == 8


def test_downloads_have_threads_of_their_own(monkeypatch):
    reader, released = Reader(PREPARE), threading.Event()
    monkeypatch.setattr(inputs, "download", lambda url: released.wait(60) and photo(1))
    hung = [reader.submit(f"http://h/{n}", "x", encoded=False) for n in range(40)]
    assert reader.submit(photo(7), "y", encoded=False).result(60).content[0, 0, 0] == 7
    reader.close()
    released.set()
    with pytest.raises(ClassifierClosed):
        hung[-1].result(60)


@pytest.mark.parametrize("encoded", [False, True])
def test_too_many_pixels(encoded):
    reader = Reader(PREPARE, max_pixels=1000)
    images = [photo(1, (40, 30)), photo(1, (25, 40)), np.zeros((40, 30, 3), np.uint8)]
    found = [reader.read(image, "it", encoded=encoded) for image in images]
    assert [one.error is None for one in found] == [False, True, False]
    assert "1,200 pixels" in found[0].error.problem


def test_a_closed_reader(monkeypatch):
    monkeypatch.setattr(reading, "_WORTH_A_THREAD", 0.0)
    reader = Reader(PREPARE)
    reader._cores = 4
    found = reader.stream((photo(value) for value in range(99)), 8, False)
    for _ in range(9):
        next(found)
    reader.close()
    with pytest.raises(ClassifierClosed):
        list(found)
