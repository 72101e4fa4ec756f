"""Labelled images, read into memory or listed to be decoded later.

A source is a path in one of the layouts of :mod:`delugeserve.data.readers`, or the name of a public
data set, which is downloaded. Labels are always in the order of the data set's classes in
``zoo.py``.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from delugeserve.data import hub
from delugeserve.data.decoding import decode_all
from delugeserve.data.encoded import EncodedImages
from delugeserve.data.formats import is_image_file
from delugeserve.data.holdout import hold_out
from delugeserve.data.labels import align, list_names, no_images
from delugeserve.data.options import VAL_FRACTION
from delugeserve.data.readers import Layout, find_layout
from delugeserve.data.skipped import SkippedFiles
from delugeserve.data.sources import explain_permissions, find_on_disk
from delugeserve.data.splits import SizeRange, SplitName
from delugeserve.data.unreadable import OnUnreadable, describe_left_out
from delugeserve.errors import DatasetError
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve.zoo import TASKS, Task

__all__ = ["LabelledImages", "SplitName", "check_source", "index_images", "load_images"]

_log = logging.getLogger(__name__)

_PACKED = (".zip", ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst")


Part = Literal["train", "validation", "test", "held-out"]


@dataclass(frozen=True)
class LabelledImages:
    """Images with their classes.

    Attributes:
        images: uint8 ``[N, H, W, 3]``, RGB.
        labels: int64 ``[N]``, indices into ``class_names``.
        class_names: one per class of the data set.
        fingerprint: hexadecimal SHA-256 of the labelled pixels; it depends neither on the file
            format nor on the order of the images.
        skipped: files that were not read because they are not images.
        unreadable: names of the images that could not be decoded and were left out.
        encoded: the same images as their files hold them, with their names; None if they come from
            elsewhere.
        part: the split on disk that they are, or ``held-out`` for the part that is held out of a
            source without such a split.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    fingerprint: str
    skipped: SkippedFiles = field(default_factory=SkippedFiles)
    unreadable: tuple[str, ...] = ()
    encoded: EncodedImages | None = None
    part: Part = "test"

    def __len__(self) -> int:
        return len(self.labels)

    def require_classes(self, class_names: Sequence[str], classifier: str) -> None:
        """Check that the labels mean the same classes as a classifier's outputs.

        Args:
            class_names: the classifier's, in the order of its logits.
            classifier: the classifier's name, as the subject of a sentence.

        Raises:
            DatasetError: the images have other classes, or in another order.
        """
        if tuple(class_names) == self.class_names:
            return
        extra = [name for name in self.class_names if name not in class_names]
        missing = [name for name in class_names if name not in self.class_names]
        differences = [
            f"{what} {list_names(names)}"
            for what, names in (("lack", missing), ("have", extra))
            if names
        ]
        raise DatasetError(
            f"{classifier} has other classes: the images"
            f" {' and '.join(differences) or 'have them in another order'}.",
            "Give a data set with the classes of the training data"
            f"{'' if differences else ', in the same order'}.",
            expected=tuple(class_names),
            found=self.class_names,
            extra=extra,
            missing=missing,
        )


def load_images(
    source: str | Path,
    split: SplitName,
    task: Task,
    *,
    limit: int | None = None,
    on_unreadable: OnUnreadable = "fail",
    val_fraction: float = VAL_FRACTION,
    progress: Progress = NO_PROGRESS,
) -> LabelledImages:
    """Read one split of a data set into memory.

    Args:
        source: a path, or the name of a public data set. A path that exists has priority.
        split: ``train``, ``validation`` or ``test``. A validation split replaces a missing test
            split, and a held-out part of the training images replaces both if there are no others.
        task: the size of the images, and the class names, in the order of the labels.
        limit: the most images to read, from the start; in an image folder the classes take turns.
            None for all.
        on_unreadable: whether an image that cannot be decoded is an error or is left out.
        val_fraction: the part of the training images to hold out if there are no others.
        progress: receives the number of images read.

    Returns:
        The images, in the order of the source.

    Raises:
        DatasetError: there is no such source, or it cannot be read.
        MissingExtraError: the extra ``train`` is not installed.
    """
    with explain_permissions(source):
        encoded, part = _list(source, split, task, limit, progress, val_fraction)
        images = decode_split(encoded, split, task, on_unreadable, progress, part=part)
    return replace(images, part=part)


def index_images(
    source: str | Path,
    split: SplitName,
    task: Task,
    *,
    limit: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> EncodedImages:
    """List the images of one split of a data set with their labels, and decode none of them.

    Args:
        source: as for :func:`load_images`.
        split: as for :func:`load_images`.
        task: the class names, in the order of the labels.
        limit: the most images to list, from the start; in an image folder the classes take turns.
            None for all.
        progress: receives the number of files read.

    Returns:
        The images, in the order of the source.

    Raises:
        DatasetError: there is no such source, or it cannot be read.
        MissingExtraError: the extra ``train`` is not installed.
    """
    with explain_permissions(source):
        encoded, _ = _list(source, split, task, limit, progress)
    log_listed(encoded, split, task)
    return encoded


def check_source(source: str | Path, split: SplitName, task: Task) -> None:
    """Check early, by names of files alone, that a source looks like a data set with a split.

    Args:
        source: as for :func:`load_images`.
        split: as for :func:`load_images`.
        task: the data set that the source should hold.

    Raises:
        DatasetError: there is no such source, or it has no files of the split.
    """
    with explain_permissions(source):
        path = find_on_disk(source)
        if path is not None:
            layout = require_layout(path, task.name)
            layout.check(choose_split(layout, split, task))


def require_layout(path: Path, prefer: str | None = None) -> Layout:
    """Recognise the layout of a source by the names of its files.

    Args:
        path: a file or folder.
        prefer: name of a registered data set: of several CIFAR archives, its own is used.

    Raises:
        DatasetError: the source has no known layout, or its files are incomplete.
    """
    layout = find_layout(path, prefer)
    if layout is not None:
        return layout
    if path.is_file() and path.suffix.lower() in _PACKED:
        raise DatasetError(
            f"{path} is a packed archive, which is not read in place.",
            "Unpack it, and give the folder.",
            path=path,
        )
    loose = next((file for file in path.glob("*") if is_image_file(file)), None)
    loose = loose or next((file for file in path.glob("*/*") if is_image_file(file)), None)
    if loose is not None and path.is_dir():
        raise DatasetError(
            f"{path} has images without labels, such as {loose}.",
            "Put the images of each class into a folder of its own, or add a CSV file with the"
            " columns path and label.",
            path=path,
            name=str(loose),
        )
    raise DatasetError(
        f"{path} has no images in a known layout.",
        "Give a folder of class folders (<class>/*.jpg, or train/<class>/*.jpg and"
        " test/<class>/*.jpg), a CSV file, parquet files, WebDataset archives or an original CIFAR"
        " archive.",
        path=path,
    )


def choose_split(layout: Layout, split: SplitName, task: Task | None = None) -> SplitName:
    """Return the split on disk to read for one that is asked for.

    Args:
        layout: the files.
        split: the split that is asked for.
        task: the data set that the files should hold, if that is known.

    Raises:
        DatasetError: there is no such split.
    """
    if holds_out(layout, task):
        return "train"
    choices = [split]
    if split == "test":
        choices.append("validation")
        if task is not None and task.name == "imagenet":
            # The labels of ImageNet's test images were never published: all of them are -1.
            choices.reverse()
    found = next((choice for choice in choices if choice in layout.splits), None)
    if found is None:
        raise layout.missing(split)
    return found


def holds_out(layout: Layout, task: Task | None) -> bool:
    """Return whether a part of the training images replaces the validation and the test split.

    It does so if there are no others, and training on the same source held that part out. The
    registered networks that ship with weights were trained on all of them.

    Args:
        layout: the files.
        task: the data set that the files should hold, if that is known.
    """
    registered = task is not None and task.name in TASKS
    return not layout.divided or (layout.splits == ("train",) and not registered)


def decode_split(
    encoded: EncodedImages,
    split: SplitName,
    task: Task,
    on_unreadable: OnUnreadable,
    progress: Progress,
    *,
    part: Part | None = None,
) -> LabelledImages:
    """Decode a split that was listed, and log what was read.

    ``part`` is what the images are, if that is not the split that was asked for. The other
    arguments, and the errors, are those of :func:`load_images`.
    """
    size = task.image_size
    decoded = decode_all(encoded, size, task.resize_size, on_unreadable, progress)
    labels = encoded.labels[decoded.rows]
    if not len(labels):
        raise no_images(encoded.source)
    _log.info(
        "%s", _describe(part or split, len(labels), len(encoded.class_names), decoded.sizes, task)
    )
    report_skipped(encoded)
    if decoded.unreadable:
        _log.warning("%s", describe_left_out(decoded.unreadable))
    return LabelledImages(
        decoded.images,
        labels,
        encoded.class_names,
        fingerprint(decoded.images, labels),
        encoded.skipped,
        decoded.unreadable,
        encoded.select(decoded.rows),
        split,
    )


def log_listed(encoded: EncodedImages, split: SplitName, task: Task) -> None:
    """Log what was listed."""
    _log.info("%s", _describe(split, len(encoded), len(encoded.class_names), None, task))
    report_skipped(encoded)


def _list(
    source: str | Path,
    split: SplitName,
    task: Task,
    limit: int | None,
    progress: Progress,
    val_fraction: float = VAL_FRACTION,
) -> tuple[EncodedImages, Part]:
    if limit is not None and limit < 1:
        raise DatasetError(
            f"The limit of images is {limit}.", "Give a limit of 1 or more.", found=limit
        )
    path = find_on_disk(source) or hub.download(os.fspath(source), split)
    layout = require_layout(path, task.name)
    on_disk = choose_split(layout, split, task)
    held_out = holds_out(layout, task)
    listing = layout.list_split(on_disk, limit=None if held_out else limit, progress=progress)
    labels, class_names = align(listing.source, listing.labels, listing.class_names, task)
    encoded = listing.labelled(labels, class_names)
    if not held_out:
        return encoded, on_disk
    kept, held = hold_out(encoded, val_fraction, 0)
    if split == "train":
        return kept.first(limit), "train"
    _log.info(
        "%s has no %s split: %.0f %% of its images are held out, class by class.",
        path,
        split,
        100 * val_fraction,
    )
    return held.first(limit), "held-out"


def fingerprint(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
    """Compute an identifier of labelled images that does not depend on their order.

    Args:
        images: uint8 ``[N, H, W, 3]``.
        labels: int64 ``[N]``.

    Returns:
        Hexadecimal SHA-256 of the images' shape and of the sorted SHA-256 digests of each label
        (int64, little-endian) with its pixels.
    """
    pixels = np.ascontiguousarray(images).reshape(len(images), -1)
    little_endian = labels.astype("<i8")
    digests = sorted(
        hashlib.sha256(label.tobytes() + image.tobytes()).digest()
        for label, image in zip(little_endian, pixels, strict=True)
    )
    whole = hashlib.sha256(repr(images.shape[1:]).encode())
    whole.update(b"".join(digests))
    return whole.hexdigest()


def report_skipped(encoded: EncodedImages) -> None:
    """Log the files that were skipped."""
    if encoded.skipped.total:
        # Hidden files are the system's own, such as .DS_Store; others may be images to the user.
        level = logging.INFO if set(encoded.skipped.kinds) == {"hidden"} else logging.WARNING
        _log.log(level, "%s: skipped %s.", encoded.source, encoded.skipped)


def _describe(split: Part, images: int, classes: int, sizes: SizeRange | None, task: Task) -> str:
    """Return, say, ``train: 3,068 images of 4 classes, 180x240 to 640x480 pixels, ...``."""
    side = task.image_size
    text = f"{split}: {images:,} images of {classes:,} classes"
    if sizes is None:
        return f"{text}, to be resized and cropped to {side}x{side} pixels"
    text += f", {sizes} pixels"
    if str(sizes) == f"{side}x{side}":
        return text
    cropped = "" if sizes.square and task.resize_size == side else " and cropped"
    return f"{text}, resized{cropped} to {side}x{side}"
