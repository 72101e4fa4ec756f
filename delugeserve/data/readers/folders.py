"""Image folders: ``<path>/train/<class>/*.png``."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from delugeserve.artifacts.labels import check_class_names
from delugeserve.data.encoded import EncodedImages
from delugeserve.data.formats import decodable_formats, is_image_file
from delugeserve.data.labels import align, list_names, name_classes
from delugeserve.data.skipped import SkippedFiles
from delugeserve.data.splits import (
    SPLIT_NAMES,
    ReadRequest,
    Size,
    SizeRange,
    Split,
    SplitName,
    allocate,
)
from delugeserve.data.unreadable import UnreadableImages, decode_resized
from delugeserve.errors import DatasetError
from delugeserve.system.hardware import usable_cores
from delugeserve.zoo import Task


@dataclass(frozen=True)
class Listing:
    """The image files of a split; none of them is opened.

    Attributes:
        folder: the folder of the split.
        folders: names of the class folders, in the order of their labels.
        files: label and file name of each image, the classes taking turns.
        class_names: in the order of the labels.
        skipped: files that are not images.
    """

    folder: Path
    folders: tuple[str, ...]
    files: list[tuple[int, str]]
    class_names: tuple[str, ...]
    skipped: SkippedFiles

    @property
    def labels(self) -> NDArray[np.int64]:
        """Label of each image, int64 ``[N]``."""
        return np.array([label for label, _ in self.files], np.int64)


def has_split(path: Path, split: SplitName, task: Task) -> bool:  # noqa: ARG001
    """Check whether a folder has class folders with images; see :class:`.Reader`."""
    folder = _find_split(path, split)
    if folder is None:
        return False
    _check_names(folder)
    return True


def read(path: Path, request: ReadRequest) -> Split | None:
    """Read a split of an image folder; see :class:`.Reader`.

    Images are resized and cropped as the client does before it asks a server, so that training
    images look like the ones that are classified later. An image of the network's own size keeps
    its pixels. With a limit, the classes take turns.
    """
    task = request.task
    found = list_images(path, request)
    if found is None:
        return None
    count = len(found.files)
    images = allocate(count, task, found.folder)
    sizes: list[Size | None] = [None] * count
    unreadable = UnreadableImages(request.on_unreadable)

    def read_row(row: int) -> None:
        label, name = found.files[row]
        file = found.folder / found.folders[label] / name
        with unreadable.collect(row, str(file)):
            sizes[row] = _image_size(file)
            images[row] = _decode(file, sizes[row], task)

    request.progress.stage(f"read {request.split} images", count)
    with ThreadPoolExecutor(usable_cores()) as pool:
        for _ in pool.map(read_row, range(count)):
            request.progress.advance()
    return Split(
        found.folder,
        images,
        found.labels,
        found.class_names,
        SizeRange.of(size for size in sizes if size is not None),
        found.skipped,
        unreadable.names,
    ).without(unreadable.rows)


def index(path: Path, request: ReadRequest) -> EncodedImages | None:
    """List the files of a split of an image folder; see :class:`.Reader`."""
    request.progress.stage(f"list {request.split} images")
    found = list_images(path, request)
    return None if found is None else _ImageFiles(found, request.task)


def list_images(path: Path, request: ReadRequest) -> Listing | None:
    """List the image files of a split.

    Args:
        path: the folder that holds the folders of the splits.
        request: which images.

    Returns:
        The files; None if there is no folder of either split.

    Raises:
        DatasetError: the split is missing or empty, or has a class that the training split does not
            have.
        ClassNameError: the name of a class folder is not UTF-8 or contains a line break.
    """
    folder = _find_split(path, request.split)
    if folder is None:
        return None
    # The training split decides, so that a class without test images does not shift the labels.
    train = _find_folder(path, "train") or folder
    classes = _check_names(train)
    unknown = [name for name in _check_names(folder) if name not in classes]
    if unknown:
        raise DatasetError(
            f"{folder} has classes that {train} does not have: {list_names(unknown)}.",
            "Give both splits the same class folders.",
            path=folder,
            name=unknown[0],
            extra=unknown,
        )
    by_class: list[list[tuple[int, str]]] = []
    skipped = _list_misplaced(folder)
    for label, name in enumerate(classes):
        files, others = _list_class(folder, name)
        by_class.append([(label, file) for file in files])
        skipped += others
    in_turn = chain.from_iterable(zip_longest(*by_class))
    return Listing(
        folder,
        tuple(classes),
        [pair for pair in in_turn if pair is not None][: request.limit],
        name_classes(classes, request.task),
        SkippedFiles.count(skipped),
    )


class _ImageFiles(EncodedImages):
    """The files of an image folder.

    Names are kept in one array: a million Python strings would be copied to every worker, page by
    page, as soon as the worker counts references to them.
    """

    def __init__(self, found: Listing, task: Task) -> None:
        labels, class_names = align(found.folder, found.labels, found.class_names, task)
        self._folder = found.folder
        self._folders = found.folders
        self._folder_of = found.labels
        self._names = np.array([os.fsencode(name) for _, name in found.files])
        paths = [f"{found.folders[label]}/{name}" for label, name in found.files]
        listing = sorted(f"{path}\0{_file_size(found.folder / path)}" for path in paths)
        fingerprint = hashlib.sha256("\n".join(listing).encode(errors="surrogateescape"))
        super().__init__(
            found.folder,
            labels,
            class_names,
            fingerprint.hexdigest(),
            np.arange(len(labels)),
            found.skipped,
        )

    def __getitem__(self, index: int) -> Path:
        name = os.fsdecode(bytes(self._names[index]))
        return Path(self._folder, self._folders[self._folder_of[index]], name)

    def name(self, index: int) -> str:
        return str(self[index])


def _find_split(path: Path, split: SplitName) -> Path | None:
    """Return the folder of a split; None if there is no folder of either split.

    Raises:
        DatasetError: only the other split has images, or the class folders hold other files.
    """
    found = {name: _find_folder(path, name) for name in SPLIT_NAMES}
    folder = found[split]
    if folder is not None:
        return folder
    skipped = _list_skipped(path, split)
    if skipped.total:
        raise DatasetError(
            f"{path} has no images of the {split} split; skipped {skipped}.",
            "Convert the images to PNG or JPEG files in the class folders.",
            path=path,
            name=split,
            found=skipped,
        )
    if not any(found.values()):
        return None
    names = " or ".join(f"{name}/<class>/" for name in SPLIT_NAMES[split][:2])
    raise DatasetError(
        f"{path} has no images of the {split} split.",
        f"Put them into {names}.",
        path=path,
        name=split,
    )


def _find_folder(path: Path, split: SplitName) -> Path | None:
    """Return the first folder of one of the split's names that has images in class folders."""
    for name in SPLIT_NAMES[split]:
        folder = path / name
        if folder.is_dir() and any(_list_class(folder, one)[0] for one in _class_folders(folder)):
            return folder
    return None


def _list_skipped(path: Path, split: SplitName) -> SkippedFiles:
    """Count what is in the class folders of a split without images."""
    folders = [path / name for name in SPLIT_NAMES[split] if (path / name).is_dir()]
    return SkippedFiles.count(
        chain.from_iterable(
            _list_class(folder, name)[1] for folder in folders for name in _class_folders(folder)
        )
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


def _decode(file: Path, size: Size | None, task: Task) -> NDArray[np.uint8]:
    if size == (task.image_size, task.image_size):
        task = dataclasses.replace(task, resize_size=task.image_size)
    return decode_resized(file, task, str(file))


def _image_size(file: Path) -> Size | None:
    try:
        with Image.open(file, formats=decodable_formats()) as image:
            return image.size
    except Exception:  # decoding the image reports what is wrong with it
        return None


def _file_size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # removed since it was listed; decoding the image reports that
        return -1
