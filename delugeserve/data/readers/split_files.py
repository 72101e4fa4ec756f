"""Which files hold which split, by their names: parquet, CSV and tar files alike.

Names in use are ``train.parquet``, ``data/train-00000-of-00002.parquet``,
``plain_text/train/0000.parquet``, ``val.csv``, ``flowers-train-000001.tar``. Files that name no
split are the shards of one undivided data set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from delugeserve.data.readers.layout import Layout
from delugeserve.data.splits import SPLIT_NAMES, SplitName, split_named
from delugeserve.errors import DatasetError

_LEVELS = 3
_KNOWN = "|".join(name for names in SPLIT_NAMES.values() for name in names)
_STEM = re.compile(
    rf"(?:.+?[-_.])??(?P<split>{_KNOWN})(?:[-_](?P<shard>\d+)(?:-of-(?P<shards>\d+))?)?",
    re.IGNORECASE,
)


class SplitFiles:
    """The files of each split in one format.

    Attributes:
        path: the file or folder that was given.
        divided: whether the files name splits; otherwise all of them are of one data set.
        splits: the splits that there are; ``train`` if the files name none.
    """

    def __init__(
        self, path: Path, suffix: str, files: Mapping[SplitName | None, list[Path]]
    ) -> None:
        self.path = path
        self._suffix, self._files = suffix, files
        self.divided = None not in files
        self.splits: tuple[SplitName, ...] = ("train",)
        if self.divided:
            self.splits = tuple(split for split in SPLIT_NAMES if split in files)

    def of(self, split: SplitName) -> list[Path]:
        """Return the files of a split, in the order of their shards.

        Raises:
            DatasetError: a shard is missing, or there are files of two downloads.
        """
        files = self._files[split if self.divided else None]
        folders = sorted({str(file.parent) for file in files})
        if len(folders) > 1 and self.divided:
            raise DatasetError(
                f"{self.path} has the {split} split more than once: in {' and in '.join(folders)}.",
                "Give one of these folders.",
                path=self.path,
                name=split,
                found=folders,
            )
        _check_shards(files)
        return files

    def missing(self, split: SplitName) -> DatasetError:
        """Return the error about a split without files."""
        if self.path.is_file():
            return DatasetError(
                f"{self.path} holds the {self.splits[0]} split, not the {split} split.",
                "Give the folder that holds both splits.",
                path=self.path,
                name=split,
            )
        return DatasetError(
            f"{self.path} has {self._suffix[1:]} files, but none of the {split} split.",
            f"Add {split}{self._suffix}, or {split}-00000-of-00001{self._suffix} and so on.",
            path=self.path,
            name=split,
        )


class ShardedLayout(Layout):
    """One or more files for each split.

    Args:
        files: the files of each split.
    """

    def __init__(self, files: SplitFiles) -> None:
        self.path, self.splits, self.divided = files.path, files.splits, files.divided
        self._files = files

    def missing(self, split: SplitName) -> DatasetError:  # noqa: D102
        return self._files.missing(split)

    def check(self, split: SplitName) -> None:  # noqa: D102
        self._files.of(split)


def find_files(path: Path, *suffixes: str) -> SplitFiles | None:
    """Find the files of each split in a folder or up to two levels below it.

    Args:
        path: a file or folder.
        suffixes: such as ``.parquet``.

    Returns:
        The files; None if there are none.
    """
    if path.is_file():
        fits = path.name.lower().endswith(suffixes)
        return SplitFiles(path, suffixes[0], {_split_of(path): [path]}) if fits else None
    files = _list_files(path, suffixes)
    found: dict[SplitName | None, list[Path]] = {}
    for split, names in SPLIT_NAMES.items():
        # Files of "val" and of "validation", say, would be the same images under two names.
        used = next((name for name in names if name in map(_split_name, files)), None)
        if used:
            found[split] = [file for file in files if _split_name(file) == used]
    if not files:
        return None
    return SplitFiles(path, suffixes[0], found or {None: files})


def _list_files(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files with these suffixes on the first of three levels that has any, sorted.

    Names are compared before anything else is asked: there may be a million other files.
    """
    folders = [os.fspath(path)]
    for level in range(_LEVELS):
        files: list[str] = []
        below: list[str] = []
        for folder in folders:
            try:
                entries = os.scandir(folder)
            except OSError:  # may not be read, or is gone
                continue
            with entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.name.lower().endswith(suffixes):
                        if _is(entry, "file"):
                            files.append(entry.path)
                    elif level < _LEVELS - 1 and _is(entry, "folder"):
                        below.append(entry.path)
        if files:
            return sorted(map(Path, files))
        folders = below
    return []


def _is(entry: os.DirEntry[str], kind: str) -> bool:
    try:
        return entry.is_dir() if kind == "folder" else entry.is_file()
    except OSError:  # a link to itself
        return False


def common_path(files: list[Path]) -> Path:
    """Return the path that stands for a split's files in messages: the file or its folder."""
    return files[0] if len(files) == 1 else files[0].parent


def _split_name(file: Path) -> str | None:
    match = _STEM.fullmatch(file.stem)
    if match:
        return match["split"].lower()
    return file.parent.name.lower() if split_named(file.parent.name) else None


def _split_of(file: Path) -> SplitName | None:
    return split_named(_split_name(file) or "")


def _check_shards(files: list[Path]) -> None:
    """Check that the files of a split, in one folder, are the complete shards of one download."""
    named = [_STEM.fullmatch(file.stem) for file in files]
    # None for a split in a single file; "" for numbered files, whose names do not give the count.
    counts = [
        (match["shards"] or ("" if match["shard"] else None)) if match else "" for match in named
    ]
    other = next((i for i, count in enumerate(counts) if count != counts[0]), None)
    if other is not None:
        both = (files[0].name, files[other].name)
        raise DatasetError(
            f"{files[0].parent} has {files[0].suffix[1:]} files of two downloads: {both[0]} and"
            f" {both[1]}.",
            "Remove the files of one of them.",
            path=files[0].parent,
            found=both,
        )
    if not counts[0]:
        return
    count = int(counts[0])
    missing = sorted(set(range(count)) - {int(match["shard"]) for match in named if match})
    if missing:
        raise DatasetError(
            f"{files[0].parent} has {len(files)} of {count} {files[0].suffix[1:]} files; shard"
            f" {missing[0]:05d} is missing.",
            "Download the data set again.",
            path=files[0].parent,
            expected=count,
            found=len(files),
            missing=[f"{shard:05d}" for shard in missing],
        )
