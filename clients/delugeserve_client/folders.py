"""Images in folders, and a count of everything else in them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from delugeserve_client.formats import is_image_file


@dataclass
class FolderContents:
    """The images in a folder and its subfolders, and what was skipped.

    Attributes:
        images: paths of the images, sorted.
        others: number of files with another suffix, by suffix; "" for files without one.
        hidden: number of hidden files and folders.
        broken: paths with an image's suffix that are not files: broken links, pipes and devices.
        unreadable: paths of folders that cannot be read.
    """

    images: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    broken: list[Path] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)


def find_images(folder: str | os.PathLike[str]) -> FolderContents:
    """Find the images in a folder and its subfolders; nothing is opened.

    Links to folders are followed, each folder once. Hidden files and folders, with names that start
    with a dot, are skipped. For the suffixes that count, see :mod:`delugeserve_client.formats`.

    Args:
        folder: the folder's path.

    Raises:
        OSError: the folder does not exist or cannot be read.
    """
    contents = FolderContents()
    os.scandir(folder).close()
    for entry in _walk(Path(folder), contents, set()):
        path = Path(entry.path)
        if entry.name.startswith("."):
            contents.hidden += 1
        elif not is_image_file(path):
            contents.others[path.suffix.lower()] += 1
        elif _holds(entry.is_file):
            contents.images.append(path)
        else:
            contents.broken.append(path)
    contents.images.sort()
    contents.broken.sort()
    contents.unreadable.sort()
    return contents


def _walk(
    folder: Path, contents: FolderContents, visited: set[tuple[int, int]]
) -> Iterator[os.DirEntry[str]]:
    """Yield everything below a folder except folders that are not hidden."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in visited:
            return
        visited.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            listing = list(entries)
    except OSError:
        contents.unreadable.append(folder)
        return
    for entry in listing:
        if _holds(entry.is_dir) and not entry.name.startswith("."):
            yield from _walk(Path(entry.path), contents, visited)
        else:
            yield entry


def _holds(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # a link to itself, or into a folder that cannot be read
        return False
