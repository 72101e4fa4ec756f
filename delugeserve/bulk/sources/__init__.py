"""From the arguments of a command to the images that they stand for, in a fixed order."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO

from delugeserve.bulk.items import Item, Skipped, unreadable
from delugeserve.bulk.sources.folders import count_images, walk_folder
from delugeserve.bulk.sources.names import read_names
from delugeserve.bulk.sources.opening import open_shards as open_shards
from delugeserve.bulk.sources.parquet import count_rows
from delugeserve.bulk.sources.remote import is_remote, read_remote
from delugeserve.bulk.sources.shards import SUFFIXES as SHARD_SUFFIXES
from delugeserve.bulk.sources.shards import find_shard, is_shard
from delugeserve.data.formats import SUFFIXES, is_image_file
from delugeserve.errors import UsageError
from delugeserve_client.errors import ImageError

STDIN = "-"
"""The argument that stands for a list of paths on standard input."""

Skips = Callable[[str, Skipped], None]
"""Is told of each argument what was passed over in it."""


def find_items(
    arguments: Iterable[str],
    *,
    stdin: BinaryIO | None = None,
    left_out: Callable[[str], bool] = lambda _: False,
    skips: Skips = lambda *_: None,
) -> Iterator[Item]:
    """Yield the images and the shards that arguments stand for; shards are not opened.

    The order is that of the arguments; within a folder names are sorted. What cannot be read is an
    item with an error, and does not stop the others.

    Args:
        arguments: paths of files, folders and shards, globs, URLs, or ``-`` for a list on standard
            input.
        stdin: standard input.
        left_out: tells of a path in a folder whether it is passed over without being counted.
        skips: is told what was passed over in each argument.
    """
    for argument in arguments:
        if argument == STDIN and stdin is not None:
            for name in read_names(stdin):
                yield from _find(name, left_out, skips, globs=False)
        else:
            yield from _find(argument, left_out, skips)


def _find(
    argument: str, left_out: Callable[[str], bool], skips: Skips, *, globs: bool = True
) -> Iterator[Item]:
    skipped, found = Skipped(), False
    try:
        for item in _expand(argument, skipped, left_out, globs):
            found = True
            yield item
    except UsageError as error:  # a package that this argument takes is not installed
        found = True
        yield Item(argument, error=ImageError(error.problem, error.remedy, source=argument))
    if skipped.others or skipped.hidden:
        skips(argument, skipped)
    if not found:
        yield Item(
            argument,
            error=ImageError(
                f"There are no images in {argument}.",
                f"Give a folder with files that end in {', '.join([*SUFFIXES, *SHARD_SUFFIXES])}.",
                source=argument,
            ),
        )


def _expand(
    argument: str, skipped: Skipped, left_out: Callable[[str], bool], globs: bool
) -> Iterator[Item]:
    if is_remote(argument):
        yield from read_remote(argument, skipped)
    elif os.path.isdir(argument):  # noqa: PTH112 - takes any text
        yield from walk_folder(argument, skipped, left_out)
    elif is_shard(argument):
        yield find_shard(argument, explicit=True)
    elif globs and glob.has_magic(argument) and not os.path.lexists(argument):
        yield from _match(argument, skipped, left_out)
    else:
        yield Item(argument, argument)


def _match(pattern: str, skipped: Skipped, left_out: Callable[[str], bool]) -> Iterator[Item]:
    """Yield what matches a pattern; ``**`` stands for any number of folders."""
    paths = sorted(glob.iglob(pattern, recursive=True))  # noqa: PTH207 - keeps the text
    if not paths:
        yield unreadable(pattern, "no file matches", "Check the pattern.")
    for path in paths:
        if os.path.isdir(path) or left_out(path):  # noqa: PTH112
            continue
        if is_image_file(path):
            yield Item(path, path)
        elif is_shard(path):
            yield find_shard(path, explicit=False)
        else:
            skipped.others[os.path.splitext(path)[1].lower()] += 1  # noqa: PTH122


def count_items(arguments: Sequence[str], patience: float = 0.5) -> int | None:
    """Count the images that arguments stand for, if that is quick.

    Args:
        arguments: those of :func:`find_items`.
        patience: seconds after which to give up.

    Returns:
        Their number, which what changes meanwhile may make wrong; None if it is not known.
    """
    deadline = time.monotonic() + patience
    total = 0
    for argument in arguments:
        if argument == STDIN or is_remote(argument):
            return None
        count: int | None = 1
        if os.path.isdir(argument):  # noqa: PTH112
            count = count_images(argument, deadline)
        elif is_shard(argument):
            count = count_rows(argument) if argument.lower().endswith(".parquet") else None
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            count = None
        if count is None:
            return None
        total += max(1, count)
    return total
