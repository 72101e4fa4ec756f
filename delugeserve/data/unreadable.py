"""Images that cannot be decoded, of which there are a few in millions: an error, or left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from delugeserve.errors import UnreadableImageError
from delugeserve.zoo import DatasetSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from delugeserve.data.splits import Split

OnUnreadable = Literal["fail", "skip"]
ON_UNREADABLE: tuple[OnUnreadable, ...] = get_args(OnUnreadable)

Skip = Callable[[Sequence[str]], None]
"""Told the names of the images that were left out, if there are any."""

_NAMED = 10


class Sieve:
    """Holds back the images of a split that cannot be decoded, if that is wanted.

    Args:
        skip: told their names; None raises what is wrong with the first.
    """

    def __init__(self, skip: Skip | None) -> None:
        self._skip = skip
        self._names: dict[int, str] = {}

    @contextmanager
    def row(self, number: int, name: str) -> Iterator[None]:
        """Decode the image of a row.

        Raises:
            UnreadableImageError: it cannot be decoded, and none is held back.
        """
        try:
            yield
        except UnreadableImageError:
            if self._skip is None:
                raise
            self._names[number] = name

    def apply(self, split: Split) -> Split:
        """Tell of what was held back, and leave it out of a split."""
        rows = sorted(self._names)
        if self._skip is not None and rows:
            self._skip([self._names[row] for row in rows])
        return split.without(rows)


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


def left_out(names: Sequence[str]) -> str:
    """A line that says which images were left out."""
    return _account(names, "was left out", "were left out")


def replaced(names: Sequence[str]) -> str:
    """A line that says in place of which images others were taken."""
    return _account(names, "another was taken in its place", "others were taken in their place")


def _account(names: Sequence[str], became: str, became_all: str) -> str:
    count, fate = ("1 image", became) if len(names) == 1 else (f"{len(names)} images", became_all)
    more = len(names) - _NAMED
    some = ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"{count} could not be read, and {fate}: {some}."
