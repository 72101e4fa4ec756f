"""From the arguments of a command to the images that they stand for, in a fixed order."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO

from delugeserve.bulk.items import Item, Skipped
from delugeserve.bulk.sources.folders import count_images, match_files, walk_folder
from delugeserve.bulk.sources.names import read_names
from delugeserve.bulk.sources.opening import open_shards as open_shards
from delugeserve.bulk.sources.parquet import count_rows
from delugeserve.bulk.sources.remote import has_protocol, is_remote, read_remote
from delugeserve.bulk.sources.shards import SUFFIXES as SHARD_SUFFIXES
from delugeserve.bulk.sources.shards import find_shard, is_shard
from delugeserve.data.formats import SUFFIXES
from delugeserve.errors import UsageError
from delugeserve_client.errors import ImageError

STDIN = "-"
"""The argument that stands for a list of paths on standard input."""

Skips = Callable[[str, Skipped], None]
"""Is called for each argument with what was skipped in it."""


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
        left_out: tells of a path in a folder whether it is skipped without being counted.
        skips: is told what was skipped in each argument.
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
    if found:
        return
    problem = f"There are no images in {argument}."
    remedy = f"Give a folder with files that end in {', '.join([*SUFFIXES, *SHARD_SUFFIXES])}."
    if globs and _is_pattern(argument):
        problem, remedy = f"No image matches {argument}.", "Check the pattern."
    yield Item(argument, error=ImageError(problem, remedy, source=argument))


def _expand(
    argument: str, skipped: Skipped, left_out: Callable[[str], bool], globs: bool
) -> Iterator[Item]:
    if is_remote(argument):
        yield from read_remote(argument, skipped)
    elif has_protocol(argument):  # of a web server: the client downloads it
        yield Item(argument, argument)
    elif os.path.isdir(argument):  # noqa: PTH112 - takes any text
        yield from walk_folder(argument, skipped, left_out)
    elif is_shard(argument):
        yield find_shard(argument, explicit=True)
    elif globs and _is_pattern(argument):
        yield from match_files(argument, skipped, left_out)
    else:
        yield Item(argument, argument)


def _is_pattern(argument: str) -> bool:
    return not has_protocol(argument) and glob.has_magic(argument) and not os.path.lexists(argument)


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
        elif is_shard(argument) and not has_protocol(argument):
            count = count_rows(argument) if argument.lower().endswith(".parquet") else None
        elif _is_pattern(argument):
            count = None
        if count is None:
            return None
        total += max(1, count)
    return total
