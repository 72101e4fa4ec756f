import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from delugeserve_client import ImageError, ServedModel, batching
from delugeserve_client.batching import check_arguments, check_batch, checked, slices
from delugeserve_client.errors import ArgumentError, BatchError, OutputError
from delugeserve_client.images.reading import Reader
from delugeserve_client.preprocessing import Preprocessing
from delugeserve_client.served import ImageModel
from delugeserve_client.transports.messages import Reply

DECODER = ImageModel("m_image", "image", "error", 4)


def model(max_batch_size=4):
    outputs = {"logits": 2, "probabilities": 2}
    return ServedModel("m", "", ("1",), "image", outputs, max_batch_size, Preprocessing(2, 2, 2))


def pixel(value):
    return np.full((2, 2, 3), value, np.uint8)


def png(value):
    stream = io.BytesIO()
    Image.fromarray(pixel(value)).save(stream, "PNG")
    return stream.getvalue()


def answer(request):
    """A server's answer, if it named each image by its pixels."""
    if request is None:
        return None
    content = b"".join(request.parts)
    if request.form.dtype == "UINT8":
        values = [content[place] for place in range(0, len(content), 12)]
        return Reply("1", {"probabilities": [[f"1.0:{value}".encode()] for value in values]})
    rows, errors, place = [], [], 0
    while place < len(content):
        length = int.from_bytes(content[place : place + 4], "little")
        image = content[place + 4 : place + 4 + length]
        place += 4 + length
        try:
            value = np.asarray(Image.open(io.BytesIO(image)))[0, 0, 0]
        except OSError:
            value = 0
        rows.append([f"1.0:{value}".encode()])
        errors.append([b"" if value else b"The image is broken. Convert it."])
    return Reply("1", {"probabilities": rows, "error": errors})


def chunks(images, served, on_error, reader=None, encoded=False):
    size = served.images_per_request
    reader = Reader(served.preprocessing) if reader is None else reader
    return batching.chunks(reader.stream(images, size, encoded), size, on_error)


KINDS = {
    "pixels": pixel,
    "file": png,
    "missing": lambda value: f"/missing/{value}",
    "broken": lambda value: b"no image",
}


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(list(KINDS)), max_size=40), st.integers(1, 5), st.booleans())
def test_answers_stay_in_order_whatever_cannot_be_read(kinds, max_batch_size, encoded):
    images = [KINDS[kind](number + 1) for number, kind in enumerate(kinds)]
    served, results = model(max_batch_size), []
    reader = Reader(served.preprocessing)
    for chunk in chunks(images, served, "return", reader, encoded):
        request = chunk.request(served, DECODER, 1)
        assert request is None or request.form.shape[0] <= max_batch_size
        results += chunk.results(answer(request), reader)
    reader.close()
    assert len(results) == len(images)
    for number, (kind, result) in enumerate(zip(kinds, results, strict=True), start=1):
        source = f"/missing/{number}" if kind == "missing" else f"image {number}"
        assert result.source == source
        if kind in ("pixels", "file"):
            assert result.top.index == number
        else:
            assert result.predictions == ()
            with pytest.raises(ImageError, match=source if kind == "missing" else "Image"):
                _ = result.top


@pytest.mark.parametrize("image", [b"no image", png(1)[:30], "/missing/x"])
def test_an_unreadable_image_has_the_same_error_wherever_it_is_decoded(image):
    served, found = model(), []
    for encoded in (False, True):
        reader = Reader(served.preprocessing)
        (chunk,) = chunks([image], served, "return", reader, encoded)
        request = chunk.request(served, DECODER, 1)
        (result,) = chunk.results(answer(request), reader)
        found.append((result.error.problem, result.error.remedy, result.error.source))
        with pytest.raises(ImageError):
            list(checked([result], "raise"))
    assert found[0] == found[1]


def test_requests_are_full():
    sizes = [len(chunk.images) for chunk in chunks([pixel(0)] * 11, model(4), "raise")]
    assert sizes == [4, 4, 3]


def test_images_are_decoded_as_requests_are_made():
    def endless():
        while True:
            yield pixel(1)

    assert len(next(chunks(endless(), model(4), "raise")).images) == 4


def test_what_was_read_before_an_unreadable_image_is_sent():
    found = chunks([pixel(0), np.zeros((2, 2, 3), np.float32)], model(), "raise")
    assert len(next(found).images) == 1
    with pytest.raises(ImageError, match="Image 2 is an array of float32"):
        next(found)


@given(st.integers(0, 30), st.integers(1, 7))
def test_slices_cover_a_batch(count, max_batch_size):
    batch = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    parts = list(slices(batch, model(max_batch_size)))
    assert all(1 <= len(part) <= max_batch_size for part in parts)
    assert np.array_equal(np.concatenate([batch[:0], *parts]), batch)


@pytest.mark.parametrize(
    "images", ["cat.jpg", Image.new("RGB", (2, 2)), pixel(0), np.zeros((2, 2), np.uint8)]
)
def test_a_single_image_is_refused(images):
    with pytest.raises(TypeError, match="list"):
        check_arguments(images, 1, "raise")


def test_an_array_of_images_is_a_list_of_images():
    check_arguments(np.zeros((5, 2, 2, 3), np.uint8), 1, "return")


def test_numbers_of_numpy():
    count = check_arguments([], np.int64(5), "raise")
    assert (count, type(count)) == (5, int)


def test_senseless_arguments():
    for number in (0, -1, True, 2.5):
        with pytest.raises(ArgumentError) as caught:
            check_arguments([], number, "raise")
        assert caught.value.argument == "top_k"
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


def test_a_batch_that_is_no_array():
    with pytest.raises(BatchError) as caught:
        check_batch([[1]], model(), "logits")
    assert caught.value.expected_dtype == "uint8"


def test_unknown_outputs():
    with pytest.raises(OutputError) as caught:
        check_batch(np.zeros((1, 2, 2, 3), np.uint8), model(), "scores")
    assert (caught.value.output, caught.value.known) == ("scores", ("logits", "probabilities"))
