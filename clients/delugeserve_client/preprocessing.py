"""From an image, in a file or in memory, to the uint8 ``[H, W, 3]`` that a model takes.

Decode, apply the EXIF orientation, bring the shorter side to ``resize_size``, cut out the centre.
Normalisation is no part of this: the served graph does it.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from delugeserve_client.errors import ImageError
from delugeserve_client.formats import decodable_formats

Pixels: TypeAlias = npt.NDArray[np.uint8]
ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]"

INTERPOLATIONS: Mapping[str, Image.Resampling] = MappingProxyType(
    {
        "bicubic": Image.Resampling.BICUBIC,
        "bilinear": Image.Resampling.BILINEAR,
        "box": Image.Resampling.BOX,
    }
)

# What brings an image upright, by the value of EXIF's Orientation tag (EXIF 2.32, 4.6.4.A).
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

# JPEG can be decoded at a half, a quarter or an eighth of its size; this many times the wanted
# size is kept, so that the resize still decides what the image looks like.
_DRAFT_MARGIN = 2


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a model's input.

    Attributes:
        height: height of the result, in pixels.
        width: width of the result, in pixels.
        resize_size: length of an image's shorter side just before the centre crop, in pixels, for
            a square result; at least the result's own shorter side.
        interpolation: ``bicubic``, ``bilinear`` or ``box``.
    """

    height: int
    width: int
    resize_size: int
    interpolation: str = "bicubic"

    def scale(self, width: int, height: int) -> float:
        """By how much an image of this size is enlarged before the crop."""
        margin = self.resize_size / min(self.width, self.height)
        return margin * max(self.width / width, self.height / height)

    def crop_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of an image that is kept, in its own pixels: left, upper, right, lower.

        It lies in the centre to the fraction of a pixel, and has the result's aspect ratio.
        """
        scale = self.scale(width, height)
        # Rounding must not carry the box a hair beyond the image: Pillow refuses that.
        left = max(0.0, (width - self.width / scale) / 2)
        upper = max(0.0, (height - self.height / scale) / 2)
        return (left, upper, width - left, height - upper)

    def __call__(self, image: ImageLike, source: str | None = None) -> Pixels:
        """Turn an image into the model's input.

        Args:
            image: a path, the bytes of a file, a Pillow image, or a uint8 array ``[H, W]``,
                ``[H, W, 1]``, ``[H, W, 3]`` (RGB) or ``[H, W, 4]`` (RGBA). Of an animation the
                first frame counts; transparency is laid on white.
            source: the name to give the image in errors; a path names itself.

        Returns:
            uint8 ``[height, width, 3]``, RGB.

        Raises:
            ImageError: it is no image, cannot be read, or has other than 8-bit pixels.
        """
        rgb = decode(image, source or source_name(image, None), self.scale)
        # Resizing only what the crop keeps gives what resizing all and then cropping gives, and
        # costs no memory for the sides of a panorama. Pillow's filters do look beyond the box.
        box = self.crop_box(*rgb.size)
        size = (self.width, self.height)
        if rgb.size != size or box != (0, 0, *size):
            rgb = rgb.resize(size, INTERPOLATIONS[self.interpolation], box=box)
        return np.asarray(rgb, dtype=np.uint8)


def decode(image: ImageLike, source: str, scale: Callable[[int, int], float]) -> Image.Image:
    """Read an image as RGB, and bring it upright.

    Args:
        image: as ``Preprocessing`` takes it.
        source: the name to give the image in errors.
        scale: says of a width and a height by how much such an image will be enlarged; a JPEG is
            decoded at a half, a quarter or an eighth of its size where that leaves enough.

    Raises:
        ImageError: it is no image, cannot be read, or has other than 8-bit pixels.
    """
    try:
        if isinstance(image, (str, os.PathLike)):
            return _read(_regular_file(Path(image), source), source, scale)
        if isinstance(image, bytes):
            return _read(io.BytesIO(image), source, scale)
        if isinstance(image, Image.Image):
            return _to_rgb(image, source)
        if isinstance(image, np.ndarray):
            return _to_rgb(_from_array(image, source), source)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"There is no file {source}.", "Check the path.") from None
    except PermissionError:
        raise ImageError(f"{source} may not be read.", "Check its permissions.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(source) from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{_start(source)} is not an image, or of no format known here.",
            "Give a JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, JPEG 2000 or AVIF file.",
        ) from None
    # A damaged file makes Pillow's decoders raise nearly anything: OSError, SyntaxError,
    # ValueError, struct.error, EOFError, zlib.error, IndexError, MemoryError and others.
    except Exception as error:
        raise ImageError(
            f"{_start(source)} cannot be read: {_one_line(error)}.",
            "It may be damaged or truncated: get it again.",
        ) from error
    raise ImageError(
        f"{_start(source)} is a {type(image).__name__}, which is not an image.",
        "Give a path, the bytes of a file, a Pillow image or a uint8 array of shape [H, W, 3].",
    )


def _regular_file(path: Path, source: str) -> Path:
    # Asked before, because opening a pipe or a device may wait for ever.
    if path.is_dir():
        raise ImageError(f"{source} is a folder, not an image.", "Name the files in it.")
    if path.exists() and not path.is_file():
        raise ImageError(f"{source} is not a regular file.", "Name an image file.")
    return path


def _read(file: Path | io.BytesIO, source: str, scale: Callable[[int, int], float]) -> Image.Image:
    with Image.open(file, formats=decodable_formats()) as image:
        _check_size(image, source)
        width, height = image.size[::-1] if _orientation(image) >= 5 else image.size
        kept = min(1.0, _DRAFT_MARGIN * scale(width, height))
        # Only JPEG heeds this, and only before its pixels are loaded.
        image.draft(None, (math.ceil(image.width * kept), math.ceil(image.height * kept)))
        return _to_rgb(image, source)


def source_name(image: object, number: int | None) -> str:
    """What to call an image: its path, else its number counted from 1."""
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    return "the image" if number is None else f"image {number}"


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # damaged metadata raises nearly anything, and the pixels may be sound
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _check_size(image: Image.Image, source: str) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise _too_large(source)
    if min(image.size) < 1:
        raise ImageError(f"{_start(source)} is empty.", "Give an image that has pixels.")


def _too_large(source: str) -> ImageError:
    return ImageError(
        f"{_start(source)} is larger than {Image.MAX_IMAGE_PIXELS} pixels, as a"
        " decompression bomb would be.",
        "Scale it down, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it.",
    )


def _from_array(array: npt.NDArray[np.uint8], source: str) -> Image.Image:
    if array.dtype != np.uint8:
        raise ImageError(
            f"{_start(source)} is an array of {array.dtype}, not of uint8.",
            "Convert it to 0..255 first, for instance (255 * array).round().astype('uint8').",
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(
            f"{_start(source)} is an array of shape {list(array.shape)}.",
            "Give [H, W], [H, W, 3] or [H, W, 4], the channels last.",
        )
    if 0 in array.shape:
        raise ImageError(f"{_start(source)} is empty.", "Give an image that has pixels.")
    return Image.fromarray(array)


def _to_rgb(image: Image.Image, source: str) -> Image.Image:
    _check_size(image, source)
    if image.mode[0] in "IF":
        raise ImageError(
            f"{_start(source)} has pixels of more than 8 bits (mode {image.mode}).",
            "Convert it to 8 bits first.",
        )
    image.load()
    orientation = _orientation(image)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        # What lies under a transparent pixel is not meant to be seen, and often is black.
        opaque = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque)
    return image if image.mode == "RGB" else image.convert("RGB")


def _start(source: str) -> str:
    """The source's name as a sentence begins with it; a path keeps its spelling."""
    return source[0].upper() + source[1:] if source.startswith(("image ", "the image")) else source


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
