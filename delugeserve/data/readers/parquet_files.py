"""Which parquet files hold a split, by their names.

Names in use are ``train.parquet``, ``data/train-00000-of-00002.parquet`` and
``plain_text/train/0000.parquet``.
"""

from __future__ import annotations

import re
from pathlib import Path

from delugeserve.data.splits import SPLIT_NAMES, SplitName
from delugeserve.errors import DatasetError
from delugeserve.zoo import Task

_FILE_NAME = re.compile(r"(?P<split>[a-z]+)(-(?P<shard>\d+)-of-(?P<shards>\d+))?\.parquet")
_NUMBERED = re.compile(r"\d+\.parquet")


def find_files(path: Path, split: SplitName, task: Task) -> list[Path] | None:
    """Find the files of a split in a folder or up to two levels below it.

    Args:
        path: a file or folder. A file whose name does not name a split serves as either split.
        split: ``train`` or ``test``.
        task: the data set that the files should hold.

    Returns:
        The files in the order of their shards; None if there are no parquet files.

    Raises:
        DatasetError: there are only files of the other split, a shard is missing, or there are
            files of two downloads.
    """
    if path.is_file():
        if path.suffix != ".parquet":
            return None
        if _split_of(path) not in (split, None):
            raise DatasetError(
                f"{path} holds the {_split_of(path)} split, not the {split} split.",
                "Give the folder that holds both splits.",
                path=path,
                name=split,
            )
        return [path]
    files = sorted(path.glob("*.parquet")) or sorted(path.glob("*/*.parquet"))
    files = files or sorted(path.glob("*/*/*.parquet"))
    if not files:
        return None
    names = SPLIT_NAMES[split]
    if task.name == "imagenet" and split == "test":
        # The labels of the files called "test" were never published: all of them are -1.
        names = (*names[1:], "test")
    for name in names:
        matching = [file for file in files if _split_name(file) == name]
        folders = sorted({str(file.parent) for file in matching})
        if len(folders) > 1:
            raise DatasetError(
                f"{path} has the {split} split more than once: in {' and in '.join(folders)}.",
                "Give one of these folders.",
                path=path,
                name=split,
                found=folders,
            )
        if matching:
            _check_shards(matching)
            return matching
    raise DatasetError(
        f"{path} has parquet files, but none of the {split} split.",
        f"Add {split}.parquet, or {split}-00000-of-00001.parquet and so on.",
        path=path,
        name=split,
    )


def common_path(files: list[Path]) -> Path:
    """Return the path that stands for a split's files in messages: the file or its folder."""
    return files[0] if len(files) == 1 else files[0].parent


def _split_name(file: Path) -> str | None:
    match = _FILE_NAME.fullmatch(file.name)
    if match:
        return match["split"]
    return file.parent.name if _NUMBERED.fullmatch(file.name) else None


def _split_of(file: Path) -> SplitName | None:
    name = _split_name(file)
    return next((split for split, names in SPLIT_NAMES.items() if name in names), None)


def _check_shards(files: list[Path]) -> None:
    """Check that the files of a split, in one folder, are the complete shards of one download."""
    shards = [_FILE_NAME.fullmatch(file.name) for file in files]
    # None for a split in a single file; "" for numbered files, whose names do not give the count.
    counts = [match["shards"] if match else "" for match in shards]
    other = next((i for i, count in enumerate(counts) if count != counts[0]), None)
    if other is not None:
        both = (files[0].name, files[other].name)
        raise DatasetError(
            f"{files[0].parent} has parquet files of two downloads: {both[0]} and {both[1]}.",
            "Remove the files of one of them.",
            path=files[0].parent,
            found=both,
        )
    if not counts[0]:
        return
    count = int(counts[0])
    missing = sorted(set(range(count)) - {int(match["shard"]) for match in shards if match})
    if missing:
        raise DatasetError(
            f"{files[0].parent} has {len(files)} of {count} parquet files; shard"
            f" {missing[0]:05d} is missing.",
            "Download the data set again.",
            path=files[0].parent,
            expected=count,
            found=len(files),
            missing=[f"{shard:05d}" for shard in missing],
        )
