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

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from delugeserve.data import hub
from delugeserve.data.datasets import LabelledImages, decode_split, log_listed, require_layout
from delugeserve.data.decoding import fits_memory
from delugeserve.data.encoded import EncodedImages
from delugeserve.data.holdout import hold_out
from delugeserve.data.labels import align, is_wordnet_order, no_images, order_in, other_classes
from delugeserve.data.options import VAL_FRACTION
from delugeserve.data.readers import Form
from delugeserve.data.sources import explain_permissions, find_on_disk
from delugeserve.data.splits import SPLIT_NAMES, Listing, SplitName
from delugeserve.data.unreadable import OnUnreadable
from delugeserve.errors import DatasetError
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve.zoo import Task

__all__ = ["Catalogue", "SplitName", "fits_memory", "open_source"]

_log = logging.getLogger(__name__)

_LARGEST_FRACTION = 0.5


@dataclass(frozen=True)
class Catalogue:
    """The splits and the classes of a source of images. No image is decoded until it is read.

    Attributes:
        source: the path or name that was given.
        path: the file or folder of the images.
        form: the layout on disk.
        class_names: class folders sorted by name, or in the order that the files give.
        named: whether the files name the classes; otherwise the names are the labels' numbers.
        empty_classes: classes without an image in any split, which are left out.
        images: the images of each split, with labels that index ``class_names``.
        held_out: the fraction of the training images that serves as validation split; None if
            the validation split is on disk, or there is none.
    """

    source: str
    path: Path
    form: Form
    class_names: tuple[str, ...]
    named: bool
    empty_classes: tuple[str, ...]
    images: Mapping[SplitName, EncodedImages]
    held_out: float | None

    @property
    def splits(self) -> tuple[SplitName, ...]:
        """The splits that the source has, in the order train, validation, test."""
        return tuple(split for split in SPLIT_NAMES if split in self.images)

    def counts(self, split: SplitName) -> NDArray[np.int64]:
        """Return the number of images of each class in a split, int64 ``[classes]``."""
        return np.bincount(self.images[split].labels, minlength=len(self.class_names))

    def has_classes_of(self, task: Task) -> bool:
        """Return whether the classes are those of a task, in any order and usual spelling.

        True as well for WordNet numbers of a thousand classes and ImageNet, and for unnamed labels
        from 0 to the task's last class.
        """
        names = (*self.class_names, *self.empty_classes)
        if len(names) != task.num_classes:
            return False
        if not self.named:
            return set(names) == set(map(str, range(task.num_classes)))
        return is_wordnet_order(sorted(names), task) or order_in(names, task) is not None

    def require_validation(self) -> None:
        """Check that there is a split to measure a network on after each epoch.

        Raises:
            DatasetError: there is no validation split, and none was made.
        """
        if "validation" not in self.splits:
            raise DatasetError(
                f"{self.source} has no validation images to measure the network on after each"
                " epoch.",
                "Use --val-fraction 0.1, or add a validation split.",
                path=self.source,
                name="validation",
                expected="validation",
                found=self.splits,
            )

    def require_training(self) -> None:
        """Check that a classifier can be trained on this source.

        Raises:
            DatasetError: there is no training split, or only one class.
        """
        if "train" not in self.images:
            raise DatasetError(
                f"{self.source} has no training images, only the {self.splits[0]} split.",
                "Put training images into train/<class>/.",
                path=self.path,
                name="train",
                found=self.splits,
            )
        if len(self.class_names) < 2:
            raise DatasetError(
                f"{self.source} has only one class, '{self.class_names[0]}'.",
                "A classifier needs two or more: put the images of each class into a folder of its"
                " own.",
                path=self.path,
                name=self.class_names[0],
                expected=2,
                found=1,
            )

    def index(
        self, split: SplitName, task: Task | None = None, *, limit: int | None = None
    ) -> EncodedImages:
        """List the images of a split with their labels, and decode none of them.

        Args:
            split: one of :attr:`splits`.
            task: its class names give the order of the labels; None for :attr:`class_names`.
            limit: the most images, from the start; class folders take turns. None for all.

        Raises:
            DatasetError: there is no such split, or the classes are not the task's.
        """
        if split not in self.images:
            raise DatasetError(
                f"{self.source} has no images of the {split} split.",
                f"Add a {split} split, such as {split}/<class>/ or {split}.csv.",
                path=self.path,
                name=split,
                expected=split,
                found=self.splits,
            )
        images = self.images[split].first(limit)
        if task is None or task.class_names == self.class_names:
            return images
        if not self.named:
            numbers = np.array([int(name) for name in self.class_names], np.int64)[images.labels]
            return images.relabel(*align(images.source, numbers, None, task))
        # All names in order, because WordNet numbers are ImageNet's classes by their places.
        names = tuple(sorted((*self.class_names, *self.empty_classes)))
        places = np.array([names.index(name) for name in self.class_names], np.int64)
        return images.relabel(*align(images.source, places[images.labels], names, task))

    def load(
        self,
        split: SplitName,
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
        images = self.index(split, task, limit=limit)
        with explain_permissions(self.source):
            return decode_split(images, split, task, on_unreadable, progress)

    def read(
        self,
        split: SplitName,
        task: Task,
        *,
        limit: int | None = None,
        on_unreadable: OnUnreadable = "fail",
        progress: Progress = NO_PROGRESS,
    ) -> LabelledImages | EncodedImages:
        """Read a split into memory if the source fits (:meth:`fits_memory`), else list it.

        Arguments and errors are those of :meth:`load`.
        """
        if self.fits_memory(task, limit):
            return self.load(
                split, task, limit=limit, on_unreadable=on_unreadable, progress=progress
            )
        images = self.index(split, task, limit=limit)
        log_listed(images, split, task)
        return images

    def fits_memory(self, task: Task, limit: int | None = None) -> bool:
        """Return whether all splits fit into half of the available memory at the task's size.

        Args:
            task: gives the size.
            limit: the most training images.
        """
        counts = {split: len(images) for split, images in self.images.items()}
        if limit is not None:
            counts["train"] = min(limit, counts.get("train", 0))
        return fits_memory(sum(counts.values()), task.image_size)


def open_source(
    source: str | Path,
    *,
    val_fraction: float = VAL_FRACTION,
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
    if not 0 <= val_fraction <= _LARGEST_FRACTION:
        raise DatasetError(
            f"The fraction of images to hold out for validation is {val_fraction}.",
            f"Give a fraction from 0 to {_LARGEST_FRACTION}.",
            name="val_fraction",
            found=val_fraction,
        )
    with explain_permissions(source):
        path = find_on_disk(source) or hub.download(os.fspath(source))
        layout = require_layout(path)
        listings = {split: layout.list_split(split, progress=progress) for split in layout.splits}
    listings = {
        split: listing for split, listing in listings.items() if _is_labelled(split, listing)
    }
    named = any(listing.class_names is not None for listing in listings.values())
    class_names, empty, images = _join(listings)
    held_out = None
    if "validation" not in images and "train" in images and val_fraction:
        images["train"], images["validation"] = hold_out(images["train"], val_fraction, seed)
        held_out = val_fraction
        if not len(images["validation"]):
            raise DatasetError(
                f"{path} has too few images to hold some out for validation: at most one of each"
                " class.",
                "Add images, or a validation split.",
                path=path,
                name="validation",
                found=len(images["train"]),
            )
    return Catalogue(
        os.fspath(source), path, layout.form, class_names, named, empty, images, held_out
    )


def _is_labelled(split: SplitName, listing: Listing) -> bool:
    """Return whether a split has labels; in published test splits all of them may be -1."""
    if not len(listing.labels) or (listing.labels != -1).any():
        return True
    _log.warning("%s: the %s split has no labels and is not used.", listing.source, split)
    return False


def _join(
    listings: Mapping[SplitName, Listing],
) -> tuple[tuple[str, ...], tuple[str, ...], dict[SplitName, EncodedImages]]:
    """Bring the labels of all splits into the order of the first split's classes.

    Returns:
        The class names, the names of classes without images, and the images of each split.
    """
    first = next(iter(listings.values()), None)
    if first is None or not any(len(listing.labels) for listing in listings.values()):
        raise no_images(first.source if first else Path())
    names = first.class_names or _number_classes(listings)
    place = {name: index for index, name in enumerate(names)}
    aligned = {}
    for split, listing in listings.items():
        own = listing.class_names or names
        _check_labels(listing, own)
        used = np.unique(listing.labels)
        unknown = [own[label] for label in used if own[label] not in place]
        if unknown:
            raise other_classes(listing.source, first.source, unknown, names)
        order = np.array([place.get(name, -1) for name in own])
        aligned[split] = order[listing.labels]
    trained = np.bincount(aligned[next(iter(aligned))], minlength=len(names)) > 0
    for split, labels in aligned.items():
        untrained = [names[label] for label in np.unique(labels) if not trained[label]]
        if untrained:
            raise other_classes(listings[split].source, first.source, untrained, ())
    kept = np.flatnonzero(trained)
    position = np.cumsum(trained) - 1
    class_names = tuple(names[label] for label in kept)
    images = {
        split: listings[split].labelled(position[labels], class_names)
        for split, labels in aligned.items()
        if len(labels)
    }
    return class_names, tuple(names[i] for i in np.flatnonzero(~trained)), images


def _number_classes(listings: Mapping[SplitName, Listing]) -> tuple[str, ...]:
    """Return the numbers of unnamed classes as names, from 0 to the largest label."""
    return tuple(
        map(str, range(1 + max(int(li.labels.max(initial=0)) for li in listings.values())))
    )


def _check_labels(listing: Listing, names: tuple[str, ...]) -> None:
    outside = np.flatnonzero((listing.labels < 0) | (listing.labels >= len(names)))
    if len(outside):
        label = int(listing.labels[outside[0]])
        raise DatasetError(
            f"{listing.store.name(int(outside[0]))} has label {label}, but there are"
            f" {len(names)} classes.",
            "Correct the label; labels are counted from 0.",
            path=listing.source,
            name=str(outside[0]),
            expected=range(len(names)),
            found=label,
        )
