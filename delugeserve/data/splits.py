"""What every reader hands over, and what all of them check."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from delugeserve.errors import DatasetError
from delugeserve.zoo import DatasetSpec

SplitName = Literal["train", "test"]

# Names under which folders and files hold the split. The last ones stand in for a test split:
# ImageNet's test labels, for one, were never published.
SPLIT_NAMES: dict[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "test": ("test", "val", "valid", "validation"),
}


@dataclass(frozen=True)
class Split:
    """Images and labels as their files have them.

    Attributes:
        source: what to call the files in a message.
        images: uint8 ``[N, H, W, 3]``, RGB.
        labels: int64 ``[N]``, not yet held against the number of classes.
        class_names: in the order of the labels, if the files name them.
    """

    source: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...] | None

    def without(self, rows: Collection[int]) -> Split:
        """The same, but for some images."""
        if not rows:
            return self
        kept = np.delete(np.arange(len(self.labels)), list(rows))
        return dataclasses.replace(self, images=self.images[kept], labels=self.labels[kept])


def allocate(count: int, dataset: DatasetSpec, source: str) -> NDArray[np.uint8]:
    """Make room for so many images of the data set's size.

    Returns:
        Uninitialised uint8 ``[count, H, W, 3]``.

    Raises:
        DatasetError: they are more than this machine's memory holds.
    """
    shape = (count, dataset.image_size, dataset.image_size, 3)
    wanted = count * dataset.image_size**2 * 3
    if wanted > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        raise DatasetError(
            f"{source} has {count:,} images, which take {wanted / 2**30:.0f} GiB of memory:"
            " more than this machine has.",
            "Read fewer of them, by a limit.",
        )
    return np.empty(shape, np.uint8)


def check_size(width: int, height: int, dataset: DatasetSpec, image: str) -> None:
    """Hold an image's size against the data set's.

    Raises:
        DatasetError: they differ.
    """
    size = dataset.image_size
    if (width, height) != (size, size):
        raise DatasetError(
            f"{image} is {width} x {height} pixels, and images of {dataset.title} are"
            f" {size} x {size}.",
            "Scale the images to that size, or give them as an image folder, which is scaled for"
            " you.",
        )


def simple_name(name: str) -> str:
    """A class's name with the spelling taken off that data sets differ in."""
    simple = " ".join(name.replace("_", " ").replace("-", " ").lower().split())
    # So is CIFAR-100's crab spelt on the Hugging Face Hub.
    return "crab" if simple == "cra" else simple


def order_in(names: Sequence[str], dataset: DatasetSpec) -> NDArray[np.int64] | None:
    """The data set's own index of each class, where all the names are the data set's.

    Returns:
        int64 ``[len(names)]``, or None if one is not the data set's, or two are the same.
    """
    known = {simple_name(name): index for index, name in enumerate(dataset.class_names)}
    indices = [known.get(simple_name(name), -1) for name in names]
    if -1 in indices or len(set(indices)) < len(indices):
        return None
    return np.array(indices, np.int64)


def align(
    source: str,
    labels: NDArray[np.int64],
    class_names: tuple[str, ...] | None,
    dataset: DatasetSpec,
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Bring labels and class names into the data set's own order.

    Args:
        source: what to call the files in a message.
        labels: int64 ``[N]``, as the files have them.
        class_names: in the order of the labels, if the files name them.
        dataset: the data set that they should be of.

    Returns:
        The labels, and the classes' names in their order. Names that are not the data set's stay,
        with the labels.

    Raises:
        DatasetError: there are no images, too few or too many classes, or a label that is none.
    """
    if not len(labels):
        raise DatasetError(f"{source} holds no images.", "Give a data set that has some.")
    wanted = dataset.num_classes
    order = None
    if class_names is None:
        class_names = dataset.class_names
    else:
        order = order_in(class_names, dataset)
        if order is None and len(class_names) != wanted:
            raise DatasetError(
                f"{source} has {len(class_names)} classes, and {dataset.title} has {wanted}.",
                f"Give a data set of {wanted} classes, or choose another model.",
            )
    outside = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
    if len(outside):
        row = int(outside[0])
        raise DatasetError(
            f"Image {row} of {source} (counted from 0) has the label {labels[row]}, and the labels"
            f" of {dataset.title} go from 0 to {len(class_names) - 1}.",
            "Check the labels, or choose a model for this data set.",
        )
    if order is None:
        return labels, class_names
    return order[labels], dataset.class_names
