"""Files of several pictures: tar archives (WebDataset) and parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from delugeserve.bulk.items import Item, Shard, Skipped, unreadable
from delugeserve.bulk.sources.parquet import read_parquet
from delugeserve.bulk.sources.tars import SUFFIXES as TAR_SUFFIXES
from delugeserve.bulk.sources.tars import read_tar

SUFFIXES = (*TAR_SUFFIXES, ".parquet")
"""Ends of the names of shards, in lower case."""


def is_shard(name: str) -> bool:
    """Return whether a file has the name of a shard; nothing is opened."""
    return name.lower().endswith(SUFFIXES)


def read_shard(path: str, skipped: Skipped, *, explicit: bool) -> Iterator[Item]:
    """Yield the pictures of a local shard.

    Args:
        path: its path.
        skipped: counts what is no picture.
        explicit: the file was asked for by its name. Otherwise a parquet file without a column of
            images is passed over.
    """
    try:
        status = Path(path).stat()
        shard = Shard(path, f"{status.st_size} bytes, {status.st_mtime_ns}")
        with Path(path).open("rb") as file:
            yield from read_open_shard(file, shard, skipped, explicit=explicit)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        yield unreadable(path, reason, "Check the path and its permissions.")


def read_open_shard(
    file: BinaryIO, shard: Shard, skipped: Skipped, *, explicit: bool
) -> Iterator[Item]:
    """Yield the pictures of a shard; see :func:`read_shard`."""
    if shard.source.lower().endswith(".parquet"):
        yield from read_parquet(file, shard, skipped, explicit=explicit)
    else:
        yield from read_tar(file, shard, skipped)
