"""Which files hold which split, by their names: parquet, CSV and tar files alike.

Names in use are ``train.parquet``, ``data/train-00000-of-00002.parquet``,
``plain_text/train/0000.parquet``, ``val.csv``, ``flowers-train-000001.tar``. Files that name no
split are the shards of one undivided data set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from delugeserve.data.splits import SPLIT_NAMES, SplitName, split_named
from delugeserve.errors import DatasetError

_KNOWN = "|".join(name for names in SPLIT_NAMES.values() for name in names)
_STEM = re.compile(
    rf"(?:.+?[-_.])??(?P<split>{_KNOWN})(?:[-_](?P<shard>\d+)(?:-of-(?P<shards>\d+))?)?",
    re.IGNORECASE,
)


def find_files(path: Path, suffixes: Iterable[str]) -> dict[SplitName | None, list[Path]]:
    """Find the files of each split in a folder or up to two levels below it.

    Args:
        path: a file or folder.
        suffixes: such as ``.parquet``.

    Returns:
        The files of each split, in the order of their shards; under None those that name no split,
        if none of the files names one. Empty if there are no such files.

    Raises:
        DatasetError: a shard is missing, or there are files of two downloads.
    """
    suffixes = tuple(suffixes)
    if path.is_file():
        return {_split_of(path): [path]} if path.name.lower().endswith(suffixes) else {}
    files: list[Path] = []
    for pattern in ("*", "*/*", "*/*/*"):
        files = sorted(
            file
            for file in path.glob(pattern)
            if file.name.lower().endswith(suffixes)
            and not file.name.startswith(".")
            and file.is_file()
        )
        if files:
            break
    found: dict[SplitName | None, list[Path]] = {}
    for split in SPLIT_NAMES:
        names = {_split_name(file): None for file in files if _split_of(file) == split}
        if not names:
            continue
        # "val" and "validation", say, would be the same images under two names.
        matching = [file for file in files if _split_name(file) == next(iter(names))]
        folders = sorted({str(file.parent) for file in matching})
        if len(folders) > 1:
            raise DatasetError(
                f"{path} has the {split} split more than once: in {' and in '.join(folders)}.",
                "Give one of these folders.",
                path=path,
                name=split,
                found=folders,
            )
        _check_shards(matching)
        found[split] = matching
    return found or ({None: files} if files else {})


def common_path(files: list[Path]) -> Path:
    """Return the path that stands for a split's files in messages: the file or its folder."""
    return files[0] if len(files) == 1 else files[0].parent


def missing_split(
    path: Path, split: SplitName, found: Mapping[SplitName | None, list[Path]], suffix: str
) -> DatasetError:
    """Return the error about files of other splits only.

    Args:
        path: the file or folder that was given.
        split: the split that is missing.
        found: the files of the other splits.
        suffix: of the files, such as ``.parquet``.
    """
    if path.is_file():
        (other,) = found
        return DatasetError(
            f"{path} holds the {other} split, not the {split} split.",
            "Give the folder that holds both splits.",
            path=path,
            name=split,
        )
    return DatasetError(
        f"{path} has {suffix[1:]} files, but none of the {split} split.",
        f"Add {split}{suffix}, or {split}-00000-of-00001{suffix} and so on.",
        path=path,
        name=split,
    )


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
