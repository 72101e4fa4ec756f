"""From an image, in a file or in memory, to the uint8 ``[H, W, 3]`` that a model takes.

Decode, apply the EXIF orientation, resize the shorter side to ``resize_size``, crop the centre.
Normalisation is not part of this: the served graph does it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from delugeserve_client.errors import ImageError
from delugeserve_client.formats import decodable_formats
from delugeserve_client.image_errors import empty, explained, regular_file, start, too_large

Pixels: TypeAlias = npt.NDArray[np.uint8]
ImageLike: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | npt.NDArray[np.uint8]"
)

INTERPOLATIONS: Mapping[str, Image.Resampling] = MappingProxyType(
    {
        "bicubic": Image.Resampling.BICUBIC,
        "bilinear": Image.Resampling.BILINEAR,
        "box": Image.Resampling.BOX,
    }
)

ALGORITHM = 1
"""Number of the algorithm in this module. It is raised when the same image and settings give other
pixels than before, beyond what another release of Pillow changes."""

# The transform that turns an image upright, by EXIF's Orientation tag (EXIF 2.32, 4.6.4.A).
_ORIENTATION_TAG = 0x0112
_UPRIGHT = MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)

# A JPEG can be decoded at a half, a quarter or an eighth of its size. It keeps at least this many
# times the target size, so that the resize filter still determines the result.
_DRAFT_MARGIN = 2

# How many times Image.MAX_IMAGE_PIXELS a JPEG may have if it is decoded at a fraction of its size:
# 268 megapixels, as the largest cameras of phones have 200. A progressive JPEG may not, since its
# decoder keeps the coefficients of all pixels.
_DRAFT_FACTOR = 3

# Each scan of a progressive JPEG decodes the whole image once more. Encoders write about ten.
_MAX_SCANS = 200
_JPEG_START, _SCAN_START = b"\xff\xd8\xff", b"\xff\xda"


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a model's input.

    Attributes:
        height: height of the input, in pixels.
        width: width of the input, in pixels.
        resize_size: length of the image's shorter side before the centre crop, in pixels; at least
            the input's shorter side.
        interpolation: ``bicubic``, ``bilinear`` or ``box``.
    """

    height: int
    width: int
    resize_size: int
    interpolation: str = "bicubic"

    @property
    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of the settings and of :data:`ALGORITHM`.

        Two programs with the same digest turn an image into the same input.
        """
        settings = json.dumps({"algorithm": ALGORITHM, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(settings.encode()).hexdigest()[:16]

    def scale(self, width: int, height: int) -> float:
        """Return the factor by which an image of this size is resized before the crop."""
        margin = self.resize_size / min(self.width, self.height)
        return margin * max(self.width / width, self.height / height)

    def crop_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return the part of an image that the crop keeps: left, upper, right, lower.

        It is in the image's own pixels, centred to a fraction of a pixel, and has the aspect ratio
        of the input.
        """
        scale = self.scale(width, height)
        # Pillow refuses a box that rounding carries beyond the image.
        left = max(0.0, (width - self.width / scale) / 2)
        upper = max(0.0, (height - self.height / scale) / 2)
        return (left, upper, width - left, height - upper)

    def __call__(self, image: ImageLike, source: str | None = None) -> Pixels:
        """Turn an image into the model's input.

        Args:
            image: a path, the bytes of a file, a Pillow image, or a uint8 array ``[H, W]``,
                ``[H, W, 1]``, ``[H, W, 3]`` (RGB) or ``[H, W, 4]`` (RGBA). The first frame of an
                animation is used; transparent pixels become white.
            source: the image's name in errors; by default its path.

        Returns:
            uint8 ``[height, width, 3]``, RGB.

        Raises:
            ImageError: it is not an image, cannot be read, or does not have 8-bit pixels.
        """
        return self.fit(decode(image, source or source_name(image, None), self.scale))

    def fit(self, rgb: Image.Image) -> Pixels:
        """Resize an upright RGB image, as :func:`decode` returns it, and crop its centre.

        Returns:
            uint8 ``[height, width, 3]``.
        """
        # Resizing only the part that the crop keeps gives the same result as resizing everything
        # and then cropping, without the memory for the sides of a panorama. Pillow's filters do
        # use the pixels beyond the box.
        box = self.crop_box(*rgb.size)
        size = (self.width, self.height)
        if rgb.size != size or box != (0, 0, *size):
            rgb = rgb.resize(size, INTERPOLATIONS[self.interpolation], box=box)
        return np.asarray(rgb, dtype=np.uint8)


def decode(image: ImageLike, source: str, scale: Callable[[int, int], float]) -> Image.Image:
    """Read an image as RGB, upright.

    Args:
        image: as for :class:`Preprocessing`.
        source: the image's name in errors.
        scale: returns, for a width and a height, the factor by which such an image will be resized.
            A JPEG is decoded at a half, a quarter or an eighth of its size where that suffices.

    Raises:
        ImageError: it is not an image, cannot be read, does not have 8-bit pixels, or has more
            than ``PIL.Image.MAX_IMAGE_PIXELS`` of them. A JPEG that is decoded at a fraction of its
            size may have three times as many.
    """
    with explained(image, source):
        if isinstance(image, (str, os.PathLike)):
            with regular_file(Path(image), source).open("rb") as file:
                return _read(file, source, scale)
        if isinstance(image, (bytes, bytearray, memoryview)):
            return _read(io.BytesIO(image), source, scale)
        if isinstance(image, Image.Image):
            return _to_rgb(image, source)
        if isinstance(image, np.ndarray):
            return _to_rgb(_from_array(image, source), source)
    raise ImageError(
        f"{start(source)} is a {type(image).__name__}, which is not an image.",
        "Give a path, the bytes of a file, a Pillow image or a uint8 array of shape [H, W, 3].",
        source=source,
    )


def read_file(path: str | os.PathLike[str], source: str) -> bytes:
    """Return the content of an image file, without decoding it.

    Args:
        path: the file.
        source: the image's name in errors.

    Raises:
        ImageError: it cannot be read.
    """
    with explained(path, source):
        return regular_file(Path(path), source).read_bytes()


def _read(file: BinaryIO, source: str, scale: Callable[[int, int], float]) -> Image.Image:
    with _open(file, source) as image:
        width, height = image.size[::-1] if _orientation(image) >= 5 else image.size
        kept = min(1.0, _DRAFT_MARGIN * scale(width, height))
        # Only affects JPEG, and only before the pixels are loaded.
        image.draft(None, (math.ceil(image.width * kept), math.ceil(image.height * kept)))
        return _to_rgb(image, source)


def _open(file: BinaryIO, source: str) -> Image.Image:
    """Read the header of an image, and check its size before any pixel is decoded."""
    formats = decodable_formats()
    is_jpeg = file.read(len(_JPEG_START)) == _JPEG_START
    file.seek(0)
    if not is_jpeg:
        image = Image.open(file, formats=formats)
        _check_size(image, source)
        return image
    # Image.open would refuse a large JPEG, though draft mode makes it small.
    open_jpeg, _ = Image.OPEN["JPEG"]
    image = open_jpeg(file, "")
    if image.info.get("progressive"):
        _check_size(image, source)
        _check_scans(file, source)
    else:
        _check_size(image, source, _DRAFT_FACTOR)
    return image


def _check_scans(file: BinaryIO, source: str) -> None:
    place = file.tell()
    file.seek(0)
    scans = file.read().count(_SCAN_START)
    file.seek(place)
    if scans > _MAX_SCANS:
        raise ImageError(
            f"{start(source)} is a progressive JPEG of {scans:,} scans, more than the "
            f"{_MAX_SCANS} allowed.",
            "Save it again as an ordinary JPEG.",
            source=source,
        )


def source_name(image: object, number: int | None) -> str:
    """Return the name of an image in results and errors: its path, or its number from 1."""
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    return "the image" if number is None else f"image {number}"


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # damaged metadata raises nearly anything, but the pixels may be intact
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _check_size(image: Image.Image, source: str, factor: int = 1) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit * factor:
        raise too_large(source, factor)
    if min(image.size) < 1:
        raise empty(source)


def _from_array(array: npt.NDArray[np.uint8], source: str) -> Image.Image:
    if array.dtype != np.uint8:
        raise ImageError(
            f"{start(source)} is an array of {array.dtype}, not of uint8.",
            "Convert it to 0..255 first, such as (255 * array).round().astype('uint8').",
            source=source,
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(
            f"{start(source)} is an array of shape {list(array.shape)}.",
            "Give [H, W], [H, W, 3] or [H, W, 4], with the channels last.",
            source=source,
        )
    if 0 in array.shape:
        raise empty(source)
    return Image.fromarray(array)


def _to_rgb(image: Image.Image, source: str) -> Image.Image:
    _check_size(image, source)
    if image.mode[0] in "IF":
        raise ImageError(
            f"{start(source)} has pixels of more than 8 bits (mode {image.mode}).",
            "Convert it to 8 bits first.",
            source=source,
        )
    image.load()
    orientation = _orientation(image)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        # The colour of a transparent pixel is not meant to be seen, and often black.
        opaque = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque)
    return image if image.mode == "RGB" else image.convert("RGB")
