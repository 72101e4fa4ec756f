"""Images that cannot be decoded: fail at the first, or skip and report them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from delugeserve.errors import UnreadableImageError

OnUnreadable = Literal["fail", "skip"]
"""What to do with an image that cannot be decoded; the type of ``--on-unreadable``."""

_NAMED = 10


class UnreadableImages:
    """Collects the images that cannot be decoded.

    Args:
        on_unreadable: ``fail`` re-raises the first error, ``skip`` collects.
    """

    def __init__(self, on_unreadable: OnUnreadable) -> None:
        self._skip = on_unreadable == "skip"
        self._names: dict[int, str] = {}

    @property
    def rows(self) -> list[int]:
        """Rows of the collected images, ascending."""
        return sorted(self._names)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the collected images, in the order of their rows."""
        return tuple(self._names[row] for row in self.rows)

    @contextmanager
    def collect(self, row: int, name: str) -> Iterator[None]:
        """Decode the image of a row in the body of this context.

        Raises:
            UnreadableImageError: the image cannot be decoded and errors are not skipped.
        """
        try:
            yield
        except UnreadableImageError:
            if not self._skip:
                raise
            self._names[row] = name


def describe_left_out(names: Sequence[str]) -> str:
    """Return the log line about images that were left out."""
    return f"{_count(names)} could not be read and {_were(names)} left out: {_list(names)}."


def describe_replaced(names: Sequence[str]) -> str:
    """Return the log line about images that were replaced by the next readable one."""
    return f"{_count(names)} could not be read and {_were(names)} replaced: {_list(names)}."


def _count(names: Sequence[str]) -> str:
    return "1 image" if len(names) == 1 else f"{len(names):,} images"


def _were(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"


def _list(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
