"""Class folders: ``<path>/train/<class>/*.png``, or ``<path>/<class>/*.png`` without splits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from delugeserve.artifacts.labels import check_class_names
from delugeserve.data.encoded import FileStore
from delugeserve.data.formats import is_image_file
from delugeserve.data.labels import other_classes
from delugeserve.data.readers.layout import Layout
from delugeserve.data.skipped import SkippedFiles
from delugeserve.data.splits import SPLIT_NAMES, Listing, SplitName, split_named
from delugeserve.errors import DatasetError
from delugeserve.system.progress import NO_PROGRESS, Progress


class _ClassFolders(Layout):
    """Folders of images, one for each class.

    Args:
        path: the folder that was given.
        folders: the folder of each split.
        divided: whether the splits have folders of their own.
    """

    form = "class folders"

    def __init__(self, path: Path, folders: Mapping[SplitName, Path], *, divided: bool) -> None:
        self.path, self.divided = path, divided
        self._folders = {split: folders[split] for split in SPLIT_NAMES if split in folders}
        self.splits = tuple(self._folders)

    def list_split(
        self, split: SplitName, *, limit: int | None = None, progress: Progress = NO_PROGRESS
    ) -> Listing:
        progress.stage(f"list {split} images")
        folder, classes = self._folders[split], self._classes(split)
        by_class: list[list[tuple[int, str]]] = []
        skipped = _list_misplaced(folder)
        for label, name in enumerate(classes):
            files, others = _list_class(folder, name)
            by_class.append([(label, f"{name}/{file}") for file in files])
            skipped += others
        in_turn = chain.from_iterable(zip_longest(*by_class))
        found = [pair for pair in in_turn if pair is not None][:limit]
        return Listing(
            folder,
            FileStore(folder, [path for _, path in found], labelled=True),
            np.array([label for label, _ in found], np.int64),
            tuple(classes),
            SkippedFiles.count(skipped),
        )

    def missing(self, split: SplitName) -> DatasetError:
        skipped = _list_skipped(self.path, split)
        if skipped.total:
            return _unknown_formats(self.path, split, skipped)
        names = " or ".join(f"{name}/<class>/" for name in SPLIT_NAMES[split][:2])
        return DatasetError(
            f"{self.path} has no images of the {split} split.",
            f"Put them into {names}.",
            path=self.path,
            name=split,
        )

    def check(self, split: SplitName) -> None:
        self._classes(split)

    def _classes(self, split: SplitName) -> list[str]:
        """Return the names of the class folders; those of the training split, if there is one.

        A class without test images then does not shift the labels.
        """
        folder = self._folders[split]
        train = self._folders.get("train", folder)
        classes = _check_names(train)
        unknown = [name for name in _check_names(folder) if name not in classes]
        if unknown:
            raise other_classes(folder, train, unknown, classes)
        return classes


def find_splits(path: Path) -> _ClassFolders | None:
    """Find folders of splits with class folders in them; see :func:`.find_layout`.

    Raises:
        DatasetError: the class folders hold files of unknown formats only.
    """
    if not path.is_dir():
        return None
    folders: dict[SplitName, Path] = {}
    for split, names in SPLIT_NAMES.items():
        for folder in _subfolders(path, names):
            if _has_classes(folder):
                if split in folders:
                    raise DatasetError(
                        f"{path} has the {split} split more than once: in {folders[split]} and in"
                        f" {folder}.",
                        "Remove or rename one of these folders.",
                        path=path,
                        name=split,
                        found=[str(folders[split]), str(folder)],
                    )
                folders[split] = folder
    if folders:
        return _ClassFolders(path, folders, divided=True)
    for split in SPLIT_NAMES:
        skipped = _list_skipped(path, split)
        if skipped.total and set(skipped.kinds) - {"hidden", "folder"}:
            raise _unknown_formats(path, split, skipped)
    return None


def find_undivided(path: Path) -> _ClassFolders | None:
    """Find class folders without splits, or of the one split that the path names.

    See :func:`.find_layout`.
    """
    if not path.is_dir() or not _has_classes(path):
        return None
    if all(split_named(name) for name in _class_folders(path)):
        return None  # splits without class folders; no class is called "train" alone
    split = split_named(path.name)
    # flowers/test beside flowers/train is one split; a folder that is just called "test" is not.
    if split and any(
        _subfolders(path.resolve().parent, names)
        for other, names in SPLIT_NAMES.items()
        if other != split
    ):
        return _ClassFolders(path, {split: path}, divided=True)
    return _ClassFolders(path, {"train": path}, divided=False)


def _subfolders(path: Path, names: tuple[str, ...]) -> list[Path]:
    """Return the subfolders of these names, in any case, in the order of the names."""
    with os.scandir(path) as entries:
        folders = sorted(entry.name for entry in entries if _type_of(entry) == "folder")
    return [path / name for known in names for name in folders if name.lower() == known]


def _has_classes(folder: Path) -> bool:
    return any(_list_class(folder, name)[0] for name in _class_folders(folder))


def _list_skipped(path: Path, split: SplitName) -> SkippedFiles:
    """Count what is in the class folders of a split without images."""
    return SkippedFiles.count(
        chain.from_iterable(
            _list_class(folder, name)[1]
            for folder in _subfolders(path, SPLIT_NAMES[split])
            for name in _class_folders(folder)
        )
    )


def _unknown_formats(path: Path, split: SplitName, skipped: SkippedFiles) -> DatasetError:
    return DatasetError(
        f"{path} has no images of the {split} split; skipped {skipped}.",
        "Convert the images to PNG or JPEG files in the class folders.",
        path=path,
        name=split,
        found=skipped,
    )


def _class_folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and _type_of(entry) == "folder"
        )


def _check_names(folder: Path) -> list[str]:
    """Return the names of the class folders; raise if one of them cannot name a class."""
    names = _class_folders(folder)
    check_class_names(names, folder)
    return names


def _list_class(folder: Path, name: str) -> tuple[list[str], list[tuple[str, str]]]:
    """List a class folder: file names of images, and kinds and relative paths of all others.

    A class that the split does not have is empty.
    """
    images: list[str] = []
    others: list[tuple[str, str]] = []
    if not (folder / name).is_dir():
        return images, others
    with os.scandir(folder / name) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            kind = _kind_of(entry)
            if kind is None:
                images.append(entry.name)
            else:
                others.append((kind, f"{name}/{entry.name}"))
    return images, others


def _list_misplaced(folder: Path) -> list[tuple[str, str]]:
    """List images next to the class folders instead of in them, and broken links."""
    misplaced = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            kind = _type_of(entry)
            if kind == "file" and is_image_file(entry.name):
                misplaced.append(("outside class folders", entry.name))
            elif kind == "broken link" and not entry.name.startswith("."):
                misplaced.append((kind, entry.name))
    return misplaced


def _kind_of(entry: os.DirEntry[str]) -> str | None:
    """Return why a file of a class folder is skipped; None for an image."""
    if entry.name.startswith("."):
        return "hidden"
    kind = _type_of(entry)
    if kind != "file":
        return kind
    if is_image_file(entry.name):
        return None
    return Path(entry.name).suffix.lower() or "without suffix"


def _type_of(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError:  # a link to itself, or to what may not be read
        pass
    return "broken link" if entry.is_symlink() else "special file"
