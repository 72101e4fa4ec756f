"""Files of several images: tar archives (WebDataset) and parquet files."""

from __future__ import annotations

from pathlib import Path

from delugeserve.bulk.items import Item, Shard, unreadable
from delugeserve.bulk.sources.tars import SUFFIXES as TAR_SUFFIXES

SUFFIXES = (*TAR_SUFFIXES, ".parquet")
"""Ends of the names of shards, in lower case."""


def is_shard(name: str) -> bool:
    """Return whether a file has the name of a shard; nothing is opened."""
    return name.lower().endswith(SUFFIXES)


def find_shard(path: str, *, explicit: bool) -> Item:
    """Return the item of a local shard, which is not opened.

    Args:
        path: its path.
        explicit: it was asked for by its name.
    """
    try:
        status = Path(path).stat()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return unreadable(path, reason, "Check the path and its permissions.")
    stamp = f"{status.st_size} bytes, {status.st_mtime_ns}"
    return Item(path, shard=Shard(path, stamp, explicit))
