"""Images that cannot be decoded, of which there are a few in millions: an error, or left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from delugeserve.errors import UnreadableImageError
from delugeserve.zoo import DatasetSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OnUnreadable = Literal["fail", "skip"]
ON_UNREADABLE: tuple[OnUnreadable, ...] = get_args(OnUnreadable)

Skip = Callable[[Sequence[str]], None]
"""Told the names of the images that were left out, if there are any."""

_NAMED = 10


def decode_resized(image: bytes | Path, dataset: DatasetSpec, source: str) -> NDArray[np.uint8]:
    """Decode an image of any size, and scale and crop it as the client does for a server.

    Args:
        image: the content or the path of an image file.
        dataset: gives the sizes.
        source: the name to give the image in errors.

    Returns:
        uint8 ``[H, W, 3]``, RGB.

    Raises:
        UnreadableImageError: it cannot be decoded.
    """
    # Imported here because the client's package brings its network libraries.
    from delugeserve_client.errors import ImageError
    from delugeserve_client.preprocessing import Preprocessing

    size = dataset.image_size
    try:
        return Preprocessing(size, size, dataset.resize_size)(image, source)
    except ImageError as error:
        raise UnreadableImageError(error.problem, error.remedy) from error


def name_some(names: Sequence[str]) -> str:
    """The first names of a list, and how many there are more."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def left_out(names: Sequence[str]) -> str:
    """A line that says which images were left out."""
    count = "1 image could not be read, and was" if len(names) == 1 else None
    count = count or f"{len(names)} images could not be read, and were"
    return f"{count} left out: {name_some(names)}."
