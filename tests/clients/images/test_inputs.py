import io

import numpy as np
import pytest
from PIL import Image

from delugeserve_client import ImageError
from delugeserve_client.images.inputs import (
    each,
    is_encoded,
    is_one_image,
    name_of,
    read_encoded,
    resolve,
)
from delugeserve_client.preprocessing import Preprocessing

PIXELS = np.arange(2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 3)
PREPARE = Preprocessing(2, 2, 2)


class Tensor:
    """A tensor of another library, as DLPack has it."""

    def __init__(self, array):
        self._array, self.ndim = array, array.ndim

    def __dlpack__(self, **options):
        return self._array.__dlpack__()

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class OnGpu(Tensor):
    def __dlpack__(self, **options):
        raise BufferError("it is on a GPU")


def png():
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "PNG")
    return stream.getvalue()


def inputs(folder):
    path = folder / "a.png"
    path.write_bytes(png())
    return {
        "path": path,
        "text": str(path),
        "bytes": png(),
        "bytearray": bytearray(png()),
        "memoryview": memoryview(png()),
        "file": path.open("rb"),
        "stream": io.BytesIO(png()),
        "Pillow": Image.fromarray(PIXELS),
        "array": PIXELS,
        "tensor": Tensor(PIXELS),
    }


ENCODED = ["path", "text", "bytes", "bytearray", "memoryview", "file", "stream"]
KINDS = [*ENCODED, "Pillow", "array", "tensor"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_input_gives_the_same_pixels(kind, tmp_path):
    image = inputs(tmp_path)[kind]
    assert is_one_image(image)
    name = name_of(image, 7)
    assert name == (str(tmp_path / "a.png") if kind in ("path", "text", "file") else "image 7")
    np.testing.assert_array_equal(PREPARE(resolve(image, name), name), PIXELS)
    image = inputs(tmp_path)[kind]
    assert is_encoded(image) == (kind in ENCODED)
    if is_encoded(image):
        assert read_encoded(image, name) == png()


@pytest.mark.parametrize("images", [[], ["a.png"], (), iter([]), np.zeros((5, 2, 2, 3), np.uint8)])
def test_several_images(images):
    assert not is_one_image(images)


def test_a_tensor_of_several_images():
    batch = Tensor(np.stack([PIXELS, PIXELS + 1]))
    assert not is_one_image(batch)
    for found, expected in zip(each(batch), (PIXELS, PIXELS + 1), strict=True):
        np.testing.assert_array_equal(found, expected)


class Damaged:
    """A file of a kind that raises errors of its own."""

    def read(self):
        raise EOFError("ended before the end-of-stream marker")


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (OnGpu(PIXELS), "cpu()"),
        (io.StringIO("text"), "opened as text"),
        (Damaged(), "ended before"),
        ("", "is empty"),
        (object(), "is not an image"),
        (7, "is not an image"),
    ],
)
def test_what_is_no_image(image, says):
    with pytest.raises(ImageError) as caught:
        PREPARE(resolve(image, "image 7"), "image 7")
    assert says in str(caught.value)
    assert caught.value.source == "image 7"


def test_a_closed_file(tmp_path):
    file = inputs(tmp_path)["file"]
    file.close()
    with pytest.raises(ImageError, match="closed file"):
        resolve(file, "a.png")


def test_a_torch_tensor():
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(PIXELS)
    assert is_one_image(tensor)
    np.testing.assert_array_equal(PREPARE(resolve(tensor, "x"), "x"), PIXELS)
    assert not is_one_image(tensor[None])
