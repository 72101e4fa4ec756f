"""Why an image cannot be read, in the words of :class:`~delugeserve_client.ImageError`."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from delugeserve_client.errors import ImageError

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


@contextlib.contextmanager
def explained(image: object, source: str) -> Iterator[None]:
    """Translate what goes wrong while an image is read."""
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(
            f"There is no file '{source}'.", "Check the path.", source=source
        ) from None
    except PermissionError:
        raise ImageError(
            f"{source} is not readable: permission denied.",
            "Change its permissions, or run as a user who may read it.",
            source=source,
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_large(source) from None
    except UnidentifiedImageError:
        raise _unsupported(image, source) from None
    # A damaged file makes Pillow's decoders raise nearly anything: OSError, SyntaxError,
    # ValueError, struct.error, EOFError, zlib.error, IndexError, MemoryError and others.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise ImageError(
                f"{source} cannot be read: {error.strerror}.", "Check the path.", source=source
            ) from error
        raise ImageError(
            f"{start(source)} cannot be read: {_one_line(error)}.",
            "It may be damaged or truncated. Copy or download it again.",
            source=source,
        ) from error


def regular_file(path: Path, source: str) -> Path:
    """Return the path of a regular file; a missing file is left to the caller."""
    if path.is_file():
        return path
    if path.is_dir():
        raise ImageError(
            f"{source} is a folder, not an image.",
            "Give the images in it, which find_images() lists.",
            source=source,
        )
    if path.exists():  # opening a pipe or a device may wait for ever
        raise ImageError(
            f"{source} is not a regular file.", "Give the path of an image file.", source=source
        )
    if path.is_symlink():
        raise ImageError(
            f"{source} is a link to {path.readlink()}, which does not exist.",
            "Give the path of an image file.",
            source=source,
        )
    if _URL.match(source):
        raise ImageError(
            f"{source} is a URL, not a file.",
            "Download it first and give the path of the file.",
            source=source,
        )
    return path


def empty(source: str) -> ImageError:
    """Return the error for an image without pixels."""
    return ImageError(
        f"{start(source)} is empty.", "Give an image with at least one pixel.", source=source
    )


def _unsupported(image: object, source: str) -> ImageError:
    if _is_heif(image):
        return ImageError(
            f"{start(source)} is a HEIC image, which cannot be read without the package "
            "pillow-heif.",
            "Convert it to JPEG, or install the package with: pip install pillow-heif",
            source=source,
        )
    return ImageError(
        f"{start(source)} is not an image in a supported format.",
        "If it is an image, convert it to JPEG or PNG.",
        source=source,
    )


def _is_heif(image: object) -> bool:
    if isinstance(image, (str, os.PathLike)):
        with Path(image).open("rb") as file:
            start = file.read(12)
    else:
        start = bytes(image[:12]) if isinstance(image, (bytes, bytearray, memoryview)) else b""
    return start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS


def too_large(source: str, factor: int = 1) -> ImageError:
    """Return the error for an image of more than ``factor`` times Pillow's limit of pixels."""
    return ImageError(
        f"{start(source)} has more than {(Image.MAX_IMAGE_PIXELS or 0) * factor:,} pixels, the "
        "limit that guards against decompression bombs.",
        "Scale it down first.",
        source=source,
    )


def start(source: str) -> str:
    """Return the source with a capital letter to start a sentence; paths stay as they are."""
    return source[0].upper() + source[1:] if source.startswith(("image ", "the image")) else source


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
