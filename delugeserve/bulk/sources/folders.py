"""Images and shards in local folders, in an order that does not depend on the file system."""

from __future__ import annotations

import fnmatch
import glob
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
from delugeserve.errors import Failure

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
        left_out: tells of a path whether it is skipped without being counted.
    """
    for found in _walk(folder, skipped, left_out, set()):
        yield from [found] if isinstance(found, Item) else find_file(found, skipped)


def match_files(
    pattern: str, skipped: Skipped, left_out: Callable[[str], bool] = lambda _: False
) -> Iterator[Item]:
    """Yield what matches a pattern; ``**`` stands for any number of folders.

    Args:
        pattern: with ``*``, ``?``, ``[...]`` and ``**``. Only a dot matches that of a hidden file.
        skipped: counts what matches, and is neither image nor shard.
        left_out: tells of a path whether it is skipped without being counted.
    """
    for found in _match(pattern, left_out):
        if isinstance(found, Item):
            yield found
        elif not os.path.isdir(found) and not left_out(found):  # noqa: PTH112
            yield from find_file(found, skipped)


def find_file(path: str, skipped: Skipped) -> Iterator[Item]:
    """Yield the item of a file that was found, if it is an image or a shard."""
    if is_image_file(path):
        yield Item(path, path)
    elif is_shard(path):
        yield find_shard(path, explicit=False)
    else:
        skipped.others[os.path.splitext(path)[1].lower()] += 1  # noqa: PTH122


def _walk(
    folder: str,
    skipped: Skipped,
    left_out: Callable[[str], bool],
    visited: set[tuple[int, int]],
) -> Iterator[str | Item]:
    """Yield the files in a folder and its subfolders, and an item for what cannot be read."""
    try:
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in visited:
            return
        visited.add((status.st_dev, status.st_ino))
        sorted_entries = _sorted_entries(folder)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        yield unreadable(folder, reason, _PERMISSIONS, subject=f"The folder {folder}")
        return
    with sorted_entries as entries:
        for name, is_folder in entries:
            path = os.path.join(folder, name)  # noqa: PTH118 - fast
            if left_out(path):
                continue
            if name.startswith("."):
                skipped.hidden += 1
            elif is_folder:
                yield from _walk(path, skipped, left_out, visited)
            else:
                yield path


def _match(pattern: str, left_out: Callable[[str], bool]) -> Iterator[str | Item]:
    parts = pattern.split("/")
    if "**" not in parts:
        yield from sorted(glob.iglob(pattern))  # noqa: PTH207 - keeps the text
        return
    first = parts.index("**")
    head = "/".join(parts[:first]) or ("/" if pattern.startswith("/") else "")
    rest = [part for part in parts[first:] if part]
    # glob would follow a link to a parent folder again and again.
    visited: set[tuple[int, int]] = set()
    for root in sorted(glob.iglob(head)) if glob.has_magic(head) else [head]:  # noqa: PTH207
        if not os.path.isdir(root or "."):  # noqa: PTH112
            continue
        for found in _walk(root or ".", Skipped(), left_out, visited):
            if isinstance(found, Item):
                yield found
                continue
            path = found if root else found[2:]
            if _fits(path[len(root) :].lstrip("/").split("/"), rest):
                yield path


def _fits(path: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_fits(path[start:], pattern[1:]) for start in range(len(path) + 1))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _fits(path[1:], pattern[1:])


class _sorted_entries:  # noqa: N801 - used as a function
    """The entries of a folder, sorted by name, as a context manager.

    Raises:
        OSError: the folder cannot be read.
        Failure: temporary files cannot be written.
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
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the folder's entries
        for name, is_folder in sorted(entries):
            file.write((b"d" if is_folder else b"f") + os.fsencode(name) + b"\0")
        file.flush()
    except OSError as error:
        raise Failure(
            f"Temporary files cannot be written to {tempfile.gettempdir()}: "
            f"{error.strerror or error}.",
            "Free some space there, or set TMPDIR to a folder that has it.",
        ) from error
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
