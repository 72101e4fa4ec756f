"""A source of labelled images of any classes: its form, its splits, its classes.

::

    catalogue = open_source("flowers", val_fraction=0.1)
    catalogue.class_names                           # ("daisy", "rose", "tulip")
    catalogue.splits                                # ("train", "validation")
    task = ...                                      # a zoo.Task with these class names
    train = catalogue.read("train", task)           # in memory if it fits, else listed

Class names come from the data. :func:`delugeserve.data.datasets.load_images` reads a source as a
task that is known already.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from delugeserve.data.datasets import LabelledImages
from delugeserve.data.encoded import EncodedImages
from delugeserve.data.unreadable import OnUnreadable
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve.zoo import Task

Form = Literal["class folders", "CSV", "parquet", "WebDataset", "CIFAR archive"]
"""A layout on disk."""

Split = Literal["train", "validation", "test"]


class Catalogue:
    """The splits and the classes of a source of images. No image is decoded until it is read.

    Attributes:
        source: the path or name that was given.
        path: the file or folder of the images.
        form: the layout on disk.
        class_names: class folders sorted by name, or in the order that the files give.
        named: whether the files name the classes; otherwise the names are the labels' numbers.
        splits: those that the source has, in the order train, validation, test.
        held_out: the fraction of the training images that serves as validation split; None if
            the validation split is on disk, or there is none.
    """

    source: str
    path: Path
    form: Form
    class_names: tuple[str, ...]
    named: bool
    splits: tuple[Split, ...]
    held_out: float | None

    def counts(self, split: Split) -> NDArray[np.int64]:
        """Return the number of images of each class in a split, int64 ``[classes]``."""
        raise NotImplementedError

    def has_classes_of(self, task: Task) -> bool:
        """Return whether the classes are those of a task, in any order and usual spelling.

        True as well for WordNet numbers of a thousand classes and ImageNet, and for unnamed labels
        of as many classes as the task has.
        """
        raise NotImplementedError

    def index(
        self, split: Split, task: Task | None = None, *, limit: int | None = None
    ) -> EncodedImages:
        """List the images of a split with their labels, and decode none of them.

        Args:
            split: one of :attr:`splits`.
            task: its class names give the order of the labels; None for :attr:`class_names`.
            limit: the most images, from the start; class folders take turns. None for all.

        Raises:
            DatasetError: there is no such split, or the classes are not the task's.
        """
        raise NotImplementedError

    def load(
        self,
        split: Split,
        task: Task,
        *,
        limit: int | None = None,
        on_unreadable: OnUnreadable = "fail",
        progress: Progress = NO_PROGRESS,
    ) -> LabelledImages:
        """Read a split into memory, each image resized and cropped to the task's size.

        Args:
            split: one of :attr:`splits`.
            task: the sizes, and the class names that give the order of the labels.
            limit: the most images, from the start; class folders take turns. None for all.
            on_unreadable: whether an image that cannot be decoded is an error or is left out.
            progress: receives the number of images read.

        Raises:
            DatasetError: there is no such split, the classes are not the task's, or the images do
                not fit into memory.
            UnreadableImageError: an image cannot be decoded.
        """
        raise NotImplementedError

    def read(
        self,
        split: Split,
        task: Task,
        *,
        limit: int | None = None,
        on_unreadable: OnUnreadable = "fail",
        progress: Progress = NO_PROGRESS,
    ) -> LabelledImages | EncodedImages:
        """Read a split into memory if all splits fit (:func:`fits_memory`), else list it.

        Arguments and errors are those of :meth:`load`.
        """
        raise NotImplementedError


def open_source(
    source: str | Path,
    *,
    val_fraction: float = 0.1,
    seed: int = 0,
    progress: Progress = NO_PROGRESS,
) -> Catalogue:
    """Find the form, the splits and the classes of a source of images.

    If there is no validation split, ``val_fraction`` of the training images of each class serve as
    one. Which they are depends on the seed and the images' names alone: most of them stay held out
    when images are added later.

    Args:
        source: a path, or the name of a data set on the Hugging Face Hub (``cifar10``, ``cifar100``
            or ``owner/name``), which is downloaded. A path that exists has priority.
        val_fraction: from 0 (none) to 0.5.
        seed: selects other images to hold out. It is not the seed of a training run: runs with
            different seeds should be validated on the same images.
        progress: receives the number of files read.

    Raises:
        DatasetError: there is no such source, no images in it, or it is damaged.
        ClassNameError: a class name is empty, has a line break or is not UTF-8.
        MissingExtraError: the extra ``train`` is not installed.
    """
    raise NotImplementedError


def fits_memory(images: int, image_size: int) -> bool:
    """Return whether images fit into half of the memory that is available on this machine.

    Args:
        images: their number.
        image_size: height and width in pixels.
    """
    raise NotImplementedError
