"""What the formats have in common: rows are encoded in groups, and groups are concatenated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from delugeserve.bulk.labelling import ModelIdentity
from delugeserve_client import Classification


class Format(ABC):
    """A format whose rows can be appended.

    The log of a run is ``header()`` and then any number of ``encode()``, in order. How rows are
    divided into groups does not change the output.

    Args:
        model: what labels; it is in every row.
        top_k: the most classes in a row.

    Attributes:
        finished: whether the log itself is the output. Otherwise :meth:`finish` makes it.
    """

    finished: ClassVar[bool] = True

    def __init__(self, model: ModelIdentity, top_k: int) -> None:
        self.model = model
        self.top_k = top_k

    def header(self) -> bytes:
        """Return what precedes the rows."""
        return b""

    @abstractmethod
    def encode(self, rows: Sequence[Classification]) -> bytes:
        """Return rows as bytes."""

    @abstractmethod
    def sources(self, log: Path) -> Iterator[str]:
        """Yield the names in the rows of a log, as :func:`display_name` writes them.

        The log may end in a torn row.
        """

    def finish(self, log: Path, output: Path) -> None:
        """Write the output from a complete log.

        Raises:
            OSError: it cannot be written.
        """
        raise NotImplementedError


def display_name(source: str) -> str:
    r"""Return a file's name as text that every program can read.

    Bytes of a name that are not UTF-8 become ``\xe9``.
    """
    try:
        source.encode()
    except UnicodeEncodeError:
        encoded = source.encode("utf-8", "surrogateescape")
        return encoded.decode("utf-8", "backslashreplace")
    return source


def raw_name(source: str) -> bytes | None:
    """Return the bytes of a name that is not UTF-8; None for other names."""
    try:
        source.encode()
    except UnicodeEncodeError:
        return source.encode("utf-8", "surrogateescape")
    return None
