import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from delugeserve_client import ImageError, ServedModel
from delugeserve_client.batching import IN_FLIGHT, check_arguments, check_batch, chunks, slices
from delugeserve_client.classifier import in_order
from delugeserve_client.errors import BatchError, OutputError
from delugeserve_client.preprocessing import Preprocessing


def model(max_batch_size=4):
    outputs = {"logits": 2, "probabilities": 2}
    return ServedModel("m", "", ("1",), "image", outputs, max_batch_size, Preprocessing(2, 2, 2))


def pixel(value):
    return np.full((2, 2, 3), value, np.uint8)


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=40), st.integers(1, 5))
def test_answers_stay_in_order_whatever_cannot_be_read(readable, max_batch_size):
    images = [pixel(i) if good else f"/missing/{i}" for i, good in enumerate(readable)]
    results = []
    for chunk in chunks(images, model(max_batch_size), "return"):
        assert len(chunk.pixels) <= max_batch_size
        # The server's answer, if it named each image by its pixels.
        reply = np.array([[f"1.0:{p[0, 0, 0]}".encode()] for p in chunk.pixels], object)
        results += chunk.results(reply if len(chunk.pixels) else None)
    assert len(results) == len(images)
    for number, (good, result) in enumerate(zip(readable, results, strict=True)):
        if good:
            assert result.source == f"image {number + 1}"
            assert result.top.index == number
        else:
            assert result.source == f"/missing/{number}"
            assert result.predictions == ()
            with pytest.raises(ImageError, match=f"/missing/{number}"):
                _ = result.top


def test_requests_are_full():
    sizes = [len(chunk.pixels) for chunk in chunks([pixel(0)] * 11, model(4), "raise")]
    assert sizes == [4, 4, 3]


def test_images_are_decoded_as_requests_are_made():
    def endless():
        while True:
            yield pixel(1)

    assert len(next(chunks(endless(), model(4), "raise")).pixels) == 4


def test_raises_at_the_first_unreadable_image():
    with pytest.raises(ImageError, match="Image 2 is an array of float32"):
        list(chunks([pixel(0), np.zeros((2, 2, 3), np.float32)], model(), "raise"))


@given(st.integers(0, 30), st.integers(1, 7))
def test_slices_cover_a_batch(count, max_batch_size):
    batch = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    parts = list(slices(batch, model(max_batch_size)))
    assert all(1 <= len(part) <= max_batch_size for part in parts)
    assert np.array_equal(np.concatenate([batch[:0], *parts]), batch)


def test_keeps_requests_in_flight_and_their_order():
    sent, waiting, most = [], 0, 0

    def submit(item):
        nonlocal waiting, most
        sent.append(item)
        waiting += 1
        most = max(most, waiting)

        def wait():
            nonlocal waiting
            waiting -= 1
            return {"x": np.array(item)}

        return wait

    answered = [item for item, reply in in_order(range(20), submit) if reply["x"] == item]
    assert answered == sent == list(range(20))
    assert most == IN_FLIGHT
    assert waiting == 0


@pytest.mark.parametrize(
    "images", ["cat.jpg", Image.new("RGB", (2, 2)), pixel(0), np.zeros((2, 2), np.uint8)]
)
def test_a_single_image_is_refused(images):
    with pytest.raises(TypeError, match="list"):
        check_arguments(images, 1, "raise")


def test_an_array_of_images_is_a_list_of_images():
    check_arguments(np.zeros((5, 2, 2, 3), np.uint8), 1, "return")


def test_senseless_arguments():
    with pytest.raises(ValueError, match="top_k"):
        check_arguments([], 0, "raise")
    with pytest.raises(ValueError, match="on_error"):
        check_arguments([], 1, "ignore")


@pytest.mark.parametrize(
    "batch",
    [np.zeros((2, 2, 3), np.uint8), np.zeros((1, 2, 3, 3), np.uint8), np.zeros((1, 2, 2, 3))],
)
def test_batches_of_another_shape_or_type(batch):
    with pytest.raises(BatchError) as caught:
        check_batch(batch, model(), "logits")
    assert caught.value.expected_shape == (None, 2, 2, 3)
    assert caught.value.expected_dtype == "uint8"
    assert (caught.value.shape, caught.value.dtype) == (batch.shape, str(batch.dtype))


def test_unknown_outputs():
    with pytest.raises(OutputError) as caught:
        check_batch(np.zeros((1, 2, 2, 3), np.uint8), model(), "scores")
    assert (caught.value.output, caught.value.known) == ("scores", ("logits", "probabilities"))
