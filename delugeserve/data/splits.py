"""What a reader is asked for and what it returns: one split of a data set, in memory."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from delugeserve.data.skipped import SkippedFiles
from delugeserve.data.unreadable import OnUnreadable
from delugeserve.errors import DatasetError
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve.zoo import Task

SplitName = Literal["train", "test"]

# Names of files and folders that hold the split. A validation split replaces a missing test
# split: ImageNet's test labels, for example, were never published.
SPLIT_NAMES: dict[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "test": ("test", "val", "valid", "validation"),
}

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class ReadRequest:
    """Which images to read, and how.

    Attributes:
        split: ``train`` or ``test``.
        task: the data set that the files should hold.
        limit: the most images to read; None for all.
        on_unreadable: whether an image that cannot be decoded is an error or is skipped.
        progress: receives the number of images read.
    """

    split: SplitName
    task: Task
    limit: int | None = None
    on_unreadable: OnUnreadable = "fail"
    progress: Progress = NO_PROGRESS


@dataclass(frozen=True)
class SizeRange:
    """The sizes of a set of images before resizing.

    Attributes:
        smallest: the size with the fewest pixels.
        largest: the size with the most pixels.
        square: whether every image is as wide as it is high.
    """

    smallest: Size
    largest: Size
    square: bool

    @classmethod
    def of(cls, sizes: Iterable[Size]) -> SizeRange | None:
        """Return the range of some sizes, or None if there are none."""
        unique = sorted(set(sizes), key=lambda size: (size[0] * size[1], size))
        if not unique:
            return None
        return cls(unique[0], unique[-1], all(width == height for width, height in unique))


@dataclass(frozen=True)
class Split:
    """Images and labels as their files hold them.

    Attributes:
        source: path of the files.
        images: uint8 ``[N, H, W, 3]``, RGB.
        labels: int64 ``[N]``; not yet checked against the number of classes.
        class_names: in the order of the labels; None if the files do not name the classes.
        sizes: sizes of the images before resizing.
        skipped: files that were not read because they are not images.
        unreadable: names of the images that could not be decoded and were left out.
    """

    source: Path
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...] | None
    sizes: SizeRange | None = None
    skipped: SkippedFiles = field(default_factory=SkippedFiles)
    unreadable: tuple[str, ...] = ()

    def without(self, rows: Collection[int]) -> Split:
        """Return a copy without the images of some rows."""
        if not rows:
            return self
        kept = np.delete(np.arange(len(self.labels)), list(rows))
        return dataclasses.replace(self, images=self.images[kept], labels=self.labels[kept])


def allocate(count: int, task: Task, source: Path) -> NDArray[np.uint8]:
    """Allocate memory for images of the data set's size.

    Args:
        count: number of images, N.
        task: gives H and W.
        source: path of the files, for the error.

    Returns:
        Uninitialised uint8 ``[N, H, W, 3]``.

    Raises:
        DatasetError: the images do not fit into this machine's memory.
    """
    shape = (count, task.image_size, task.image_size, 3)
    wanted = count * task.image_size**2 * 3
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if wanted > available:
        raise DatasetError(
            f"{source} has {count:,} images, which need {wanted / 2**30:.0f} GiB of memory;"
            f" this machine has {available / 2**30:.0f} GiB.",
            "Read fewer images with --limit.",
            path=source,
            expected=available,
            found=wanted,
        )
    return np.empty(shape, np.uint8)


def check_size(size: Size, task: Task, path: Path, name: str) -> None:
    """Check that an image has the data set's size.

    Args:
        size: the image's width and height, in pixels.
        task: gives the size that it must have.
        path: the file that holds the image.
        name: the image, as the subject of a sentence.

    Raises:
        DatasetError: the size is another one.
    """
    expected = (task.image_size, task.image_size)
    if size != expected:
        raise DatasetError(
            f"{name} has {size[0]}x{size[1]} pixels, but images of {task.title} have"
            f" {expected[0]}x{expected[1]}.",
            "Resize the images, or convert the data set to an image folder; those are resized"
            " while they are read.",
            path=path,
            name=name,
            expected=expected,
            found=size,
        )
