"""What counts as an image, and what is made of it before it is decoded."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from delugeserve_client.errors import ImageError
from delugeserve_client.images.urls import download, is_url
from delugeserve_client.preprocessing import ImageLike, read_file, source_name


class BinaryFile(Protocol):
    """A file object that yields bytes."""

    def read(self) -> bytes:
        """Return what is left of the content."""


class Tensor(Protocol):
    """A tensor of another library, in memory that NumPy can read (DLPack)."""

    def __dlpack__(self, **options: Any) -> Any:
        """Return the tensor in a capsule."""


AnyImage: TypeAlias = "ImageLike | BinaryFile | Tensor"
"""A path, an http(s) URL, the bytes of a file, a file object, a Pillow image, or a uint8 array or
DLPack tensor ``[H, W]``, ``[H, W, 3]`` or ``[H, W, 4]``."""


def is_one_image(images: Any) -> bool:
    """Return whether an argument is one image and not several."""
    if isinstance(images, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)):
        return True
    dimensions = getattr(images, "ndim", None)
    if isinstance(images, np.ndarray) or hasattr(images, "__dlpack__"):
        return dimensions != 4
    return hasattr(images, "read")


def each(images: Iterable[AnyImage]) -> Iterable[AnyImage]:
    """Return the images of an argument for several, which may be one tensor ``[N, H, W, 3]``."""
    if hasattr(images, "__dlpack__") and not isinstance(images, np.ndarray):
        many: Iterable[AnyImage] = _array(images, "the tensor")
        return many
    return images


def name_of(image: AnyImage, number: int) -> str:
    """Return the name of an image in results and errors: its path or URL, or its number from 1."""
    name = getattr(image, "name", None) if hasattr(image, "read") else None
    return name if isinstance(name, str) and name else source_name(image, number)


def is_encoded(image: AnyImage) -> bool:
    """Return whether an image is the content of a file, or tells where that is."""
    return isinstance(image, (str, os.PathLike, bytes, bytearray, memoryview)) or (
        hasattr(image, "read") and not isinstance(image, Image.Image)
    )


def resolve(image: AnyImage, source: str) -> ImageLike:
    """Return an image as a path, bytes, a Pillow image or an array.

    Raises:
        ImageError: it cannot be read.
    """
    if is_url(image):
        return download(str(image))
    if isinstance(image, str) and not image:
        raise ImageError(
            "The path of an image is empty.", "Give the path of an image file.", source=source
        )
    if isinstance(image, (bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike, bytes, Image.Image, np.ndarray)):
        return image
    if hasattr(image, "__dlpack__"):
        pixels: npt.NDArray[np.uint8] = _array(image, source)
        return pixels
    if hasattr(image, "read"):
        return _read(image, source)
    return cast("ImageLike", image)  # decode() says what is wrong with it


def read_encoded(image: AnyImage, source: str) -> bytes:
    """Return the content of an encoded image.

    Raises:
        ImageError: it cannot be read.
    """
    found = resolve(image, source)
    return found if isinstance(found, bytes) else read_file(found, source)  # type: ignore[arg-type]


def _read(file: Any, source: str) -> bytes:
    try:
        content = file.read()
    except Exception as error:  # each kind of file raises its own, such as EOFError
        raise ImageError(
            f"{source} cannot be read: {error}.", "Open the file again.", source=source
        ) from error
    if not isinstance(content, bytes):
        raise ImageError(
            f"{source} is a file that was opened as text.",
            "Open it as bytes: open(path, 'rb').",
            source=source,
        )
    return content


def _array(tensor: Any, source: str) -> Any:
    try:
        return np.from_dlpack(tensor)
    except Exception as error:  # each library raises its own
        raise ImageError(
            f"{source[:1].upper()}{source[1:]} is a tensor that NumPy cannot read ({error}).",
            "Give a tensor of uint8 in the memory of the CPU, such as tensor.detach().cpu().",
            source=source,
        ) from error
