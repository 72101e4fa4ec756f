"""Reading image folders: ``<source>/train/<class>/*.png``."""

from __future__ import annotations

import dataclasses
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from delugeserve.data.splits import SPLIT_NAMES, Split, SplitName, allocate
from delugeserve.data.unreadable import Sieve, decode_resized
from delugeserve.errors import DatasetError
from delugeserve.system.hardware import usable_cores
from delugeserve.zoo import DatasetSpec

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")

# ImageNet's folders are called after WordNet's numbers, whose order is that of its classes.
_WORDNET_NUMBER = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Listing:
    """The images of a split, none of them opened.

    Attributes:
        folder: the split's.
        classes: the names of the classes' folders, in the order of their numbers.
        files: the number of its class and the name of each image, the classes taking turns.
        class_names: what to call the classes.
    """

    folder: Path
    classes: tuple[str, ...]
    files: list[tuple[int, str]]
    class_names: tuple[str, ...]

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each image, int64 ``[N]``."""
        return np.array([label for label, _ in self.files], np.int64)


def read(
    path: Path, split: SplitName, dataset: DatasetSpec, limit: int | None, sieve: Sieve
) -> Split | None:
    """Read a split of an image folder.

    Images of another size than the data set's are scaled and cropped as the client does it before
    it asks a server, so that what is trained on looks like what is classified later.

    Args:
        path: the folder that holds those of the splits.
        split: which split.
        dataset: gives the size that images are brought to.
        limit: at most so many images, taken from the classes in turn.
        sieve: holds back images that cannot be decoded.

    Returns:
        None if there is no split of either name.

    Raises:
        DatasetError: the split is missing or empty, or an image cannot be read.
    """
    found = list_images(path, split, dataset, limit)
    if found is None:
        return None
    images = allocate(len(found.files), dataset, str(found.folder))

    def place(row: int) -> None:
        label, name = found.files[row]
        file = found.folder / found.classes[label] / name
        with sieve.row(row, str(file)):
            images[row] = _decode(file, dataset)

    with ThreadPoolExecutor(usable_cores()) as pool:
        for _ in pool.map(place, range(len(found.files))):
            pass
    return Split(str(found.folder), images, found.labels, found.class_names)


def list_images(
    path: Path, split: SplitName, dataset: DatasetSpec, limit: int | None
) -> Listing | None:
    """Find the images of a split of an image folder.

    Args:
        path: the folder that holds those of the splits.
        split: which split.
        dataset: the data set that it should be.
        limit: at most so many images, taken from the classes in turn.

    Returns:
        None if there is no split of either name.

    Raises:
        DatasetError: the split is missing or empty, or has a class that is not trained on.
    """
    folder = find_split(path, split)
    if folder is None:
        return None
    # A class without test images must not shift the numbers of those after it.
    train = _find(path, "train")
    classes = _class_folders(train or folder)
    unknown = [name for name in _class_folders(folder) if name not in classes]
    if unknown:
        raise DatasetError(
            f"{folder} has the class '{unknown[0]}', which {train} has not.",
            "Give the splits the same classes.",
        )
    by_class = [
        [(label, file) for file in _images(folder / name)] for label, name in enumerate(classes)
    ]
    in_turn = chain.from_iterable(zip_longest(*by_class))
    files = [pair for pair in in_turn if pair is not None][:limit]
    return Listing(folder, tuple(classes), files, _class_names(classes, dataset))


def find_split(path: Path, split: SplitName) -> Path | None:
    """Find the folder of a split of an image folder.

    Args:
        path: the folder that holds those of the splits.
        split: which split.

    Returns:
        None if there is no split of either name.

    Raises:
        DatasetError: there is the other one only.
    """
    folders = {name: _find(path, name) for name in SPLIT_NAMES}
    if not any(folders.values()):
        return None
    folder = folders[split]
    if folder is None:
        names = " or ".join(f"{name}/<class>/" for name in SPLIT_NAMES[split][:2])
        raise DatasetError(f"{path} has no images of the {split} split.", f"Put them into {names}.")
    return folder


def _find(path: Path, split: SplitName) -> Path | None:
    """The first folder that goes by one of the split's names and has images in it."""
    for name in SPLIT_NAMES[split]:
        folder = path / name
        if folder.is_dir() and any(_images(folder / entry) for entry in _class_folders(folder)):
            return folder
    return None


def _class_folders(folder: Path) -> list[str]:
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )


def _images(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(_SUFFIXES) and not entry.name.startswith(".")
    )


def _class_names(classes: list[str], dataset: DatasetSpec) -> tuple[str, ...]:
    numbered = all(_WORDNET_NUMBER.fullmatch(name) for name in classes)
    if numbered and dataset.name == "imagenet" and len(classes) == dataset.num_classes:
        return dataset.class_names
    return tuple(classes)


def _decode(file: Path, dataset: DatasetSpec) -> NDArray[np.uint8]:
    if _has_size(file, dataset.image_size):
        dataset = dataclasses.replace(dataset, resize_size=dataset.image_size)
    return decode_resized(file, dataset, str(file))


def _has_size(file: Path, size: int) -> bool:
    try:
        with Image.open(file) as image:
            return image.size == (size, size)
    except Exception:  # what is wrong with it, its decoding will say
        return False
