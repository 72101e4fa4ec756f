"""Images and shards in local folders, in an order that does not depend on the file system."""

from __future__ import annotations

import heapq
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from delugeserve.bulk.items import Item, Skipped, unreadable
from delugeserve.bulk.sources.shards import find_shard, is_shard
from delugeserve.data.formats import is_image_file

SORTED_AT_ONCE = 500_000
"""Names of one folder that are sorted in memory. More are sorted in runs, in temporary files."""

_PERMISSIONS = "Change its permissions, or run as a user who may read it."


class _Entry(NamedTuple):
    name: str
    is_folder: bool


def walk_folder(
    folder: str, skipped: Skipped, left_out: Callable[[str], bool] = lambda _: False
) -> Iterator[Item]:
    """Yield what is in a folder and its subfolders.

    The entries of each folder are sorted by name. Links to folders are followed, each folder once.
    No more than one folder's names are in memory for each level, and of a huge folder a part.

    Args:
        folder: its path.
        skipped: counts what is neither image nor shard.
        left_out: tells of a path whether it is passed over without being counted.
    """
    yield from _walk(folder, skipped, left_out, set())


def _walk(
    folder: str,
    skipped: Skipped,
    left_out: Callable[[str], bool],
    visited: set[tuple[int, int]],
) -> Iterator[Item]:
    try:
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in visited:
            return
        visited.add((status.st_dev, status.st_ino))
        with _sorted_entries(folder) as entries:
            for name, is_folder in entries:
                path = os.path.join(folder, name)  # noqa: PTH118 - fast
                if left_out(path):
                    continue
                if name.startswith("."):
                    skipped.hidden += 1
                elif is_folder:
                    yield from _walk(path, skipped, left_out, visited)
                elif is_image_file(name):
                    yield Item(path, path)
                elif is_shard(name):
                    yield find_shard(path, explicit=False)
                else:
                    skipped.others[os.path.splitext(name)[1].lower()] += 1  # noqa: PTH122
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        yield unreadable(folder, reason, _PERMISSIONS, subject=f"The folder {folder}")


class _sorted_entries:  # noqa: N801 - used as a function
    """The entries of a folder, sorted by name, as a context manager.

    Raises:
        OSError: the folder cannot be read.
    """

    def __init__(self, folder: str) -> None:
        self._runs: list[IO[bytes]] = []
        entries: list[_Entry] = []
        with os.scandir(folder) as found:
            for entry in found:
                entries.append(_Entry(entry.name, _is_folder(entry)))
                if len(entries) >= SORTED_AT_ONCE:
                    self._runs.append(_write_run(entries))
                    entries = []
        entries.sort()
        self._last = entries

    def __enter__(self) -> Iterator[_Entry]:
        if not self._runs:
            return iter(self._last)
        return heapq.merge(*map(_read_run, self._runs), self._last)

    def __exit__(self, *_: object) -> None:
        for run in self._runs:
            run.close()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that cannot be read
        return False


def _write_run(entries: list[_Entry]) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the folder's entries
    for name, is_folder in sorted(entries):
        file.write((b"d" if is_folder else b"f") + os.fsencode(name) + b"\0")
    return file


def _read_run(file: IO[bytes]) -> Iterator[_Entry]:
    file.seek(0)
    rest = b""
    while chunk := file.read(1 << 16):
        *records, rest = (rest + chunk).split(b"\0")
        for record in records:
            yield _Entry(os.fsdecode(record[1:]), record[:1] == b"d")


def count_images(folder: str, deadline: float) -> int | None:
    """Count the images in a folder and its subfolders, unless that takes too long.

    Args:
        folder: its path.
        deadline: when to give up, as :func:`time.monotonic` counts.

    Returns:
        Their number; None if it is not known by the deadline, or there are shards or links.
    """
    count, folders = 0, [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if time.monotonic() > deadline or is_shard(entry.name):
                        return None
                    if is_image_file(entry.name):
                        count += 1
                    elif entry.is_symlink():
                        return None
                    elif entry.is_dir():
                        folders.append(entry.path)
        except OSError:
            count += 1  # a folder that cannot be read has a row
    return count
