"""What is classified: one item for each image, in the order of the rows of the output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from delugeserve_client.errors import ImageError

LARGEST_FILE = 512 * 2**20
"""Bytes. A larger image is refused instead of read into memory."""


@dataclass(frozen=True)
class Shard:
    """A file of several images.

    Attributes:
        source: its path or URL.
        stamp: changes when the file does: its size and its time or ETag.
        explicit: it was asked for by its name, and not found in a folder.
        path: where it is; empty if that is its source.
    """

    source: str
    stamp: str
    explicit: bool = False
    path: str = ""


@dataclass(frozen=True)
class Item:
    """One image, or something that was given as one.

    Attributes:
        source: its name in the output: a path, a URL, or ``a.tar:0001.jpg`` and ``a.parquet:17``
            for an image in a shard.
        content: the path of a local file, or the bytes of a file.
        load: reads the content; None where ``content`` is given.
        error: why it cannot be read, if that is known already.
        shard: the shard that it is in; with neither content nor error, the item is the shard
            itself, which is not opened yet.
    """

    source: str
    content: str | bytes = b""
    load: Callable[[], bytes] | None = None
    error: ImageError | None = None
    shard: Shard | None = None

    @property
    def is_shard(self) -> bool:
        """Whether the item stands for all images of a shard."""
        return self.shard is not None and not self.content and self.error is None

    def loaded(self) -> Item:
        """Return the item with its content, or with the reason that it has none."""
        if self.load is None:
            return self
        try:
            return Item(self.source, self.load(), shard=self.shard)
        except ImageError as error:
            return Item(self.source, error=error, shard=self.shard)


@dataclass
class Skipped:
    """What was skipped in folders, globs and archives.

    Attributes:
        others: number of files that are not images, by suffix; "" for files without one.
        hidden: number of hidden files and folders.
    """

    others: Counter[str] = field(default_factory=Counter)
    hidden: int = 0


def unreadable(
    source: str,
    reason: str,
    remedy: str,
    *,
    subject: str | None = None,
    shard: Shard | None = None,
) -> Item:
    """Return an item for what cannot be read.

    Args:
        source: its path or URL.
        reason: the end of the sentence ``SOURCE cannot be read: ...``, without full stop.
        remedy: what to do about it, with its full stop.
        subject: the start of that sentence instead of the source.
        shard: the file that it is in.
    """
    problem = f"{subject or source} cannot be read: {reason.rstrip('.')}."
    return Item(source, error=ImageError(problem, remedy, source=source), shard=shard)


def too_large(source: str, size: int, shard: Shard | None = None) -> Item | None:
    """Return an item with an error if an image has too many bytes to be read into memory."""
    if size <= LARGEST_FILE:
        return None
    return unreadable(
        source,
        f"it has {size / 2**20:,.0f} MiB, and more than {LARGEST_FILE // 2**20} are refused",
        "Scale it down first.",
        shard=shard,
    )
