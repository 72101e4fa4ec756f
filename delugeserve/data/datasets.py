"""Labelled images, read into memory or listed to be decoded later.

A source is a path in one of the layouts of :mod:`delugeserve.data.readers`, or the name of a public
data set, which is downloaded. Labels are always in the order of the data set's classes in
``zoo.py``.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from delugeserve.data.encoded import EncodedImages
from delugeserve.data.labels import align, list_names
from delugeserve.data.readers import READERS
from delugeserve.data.skipped import SkippedFiles
from delugeserve.data.sources import explain_permissions, find_on_disk, locate
from delugeserve.data.splits import ReadRequest, SizeRange, SplitName
from delugeserve.data.unreadable import OnUnreadable, describe_left_out
from delugeserve.errors import DatasetError
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve.zoo import Task

__all__ = ["LabelledImages", "SplitName", "check_source", "index_images", "load_images"]

_log = logging.getLogger(__name__)


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
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    fingerprint: str
    skipped: SkippedFiles = field(default_factory=SkippedFiles)
    unreadable: tuple[str, ...] = ()

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
            "Give a data set with the classes of the training data, in the same order.",
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
    progress: Progress = NO_PROGRESS,
) -> LabelledImages:
    """Read one split of a data set into memory.

    Args:
        source: a path, or the name of a public data set. A path that exists has priority.
        split: ``train`` or ``test``.
        task: gives the size of the images and the number of classes.
        limit: the most images to read, from the start; in an image folder the classes take turns.
            None for all.
        on_unreadable: whether an image that cannot be decoded is an error or is left out.
        progress: receives the number of images read.

    Returns:
        The images, in the order of the source.

    Raises:
        DatasetError: there is no such source, or it cannot be read.
        MissingExtraError: the extra ``train`` is not installed.
    """
    request = ReadRequest(split, task, limit, on_unreadable, progress)
    with locate(source, split, limit) as path:
        found = next(filter(None, (reader.read(path, request) for reader in READERS)), None)
        if found is None:
            raise _unknown_layout(path, task)
    labels, class_names = align(found.source, found.labels, found.class_names, task)
    _log.info("%s", _describe(split, len(labels), len(class_names), found.sizes, task))
    _report_skipped(found.source, found.skipped)
    if found.unreadable:
        _log.warning("%s", describe_left_out(found.unreadable))
    return LabelledImages(
        found.images,
        labels,
        class_names,
        fingerprint(found.images, labels),
        found.skipped,
        found.unreadable,
    )


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
        source: an image folder, parquet files, or the name of a public data set. A path that exists
            has priority.
        split: ``train`` or ``test``.
        task: gives the number of classes.
        limit: the most images to list, from the start; in an image folder the classes take turns.
            None for all.
        progress: receives the number of files read.

    Returns:
        The images, in the order of the source.

    Raises:
        DatasetError: there is no such source, or it cannot be read.
        MissingExtraError: the extra ``train`` is not installed.
    """
    request = ReadRequest(split, task, limit, progress=progress)
    with locate(source, split, limit) as path:
        found = next(filter(None, (reader.index(path, request) for reader in READERS)), None)
        if found is None:
            raise _unknown_layout(path, task)
    _log.info("%s", _describe(split, len(found), len(found.class_names), None, task))
    _report_skipped(found.source, found.skipped)
    return found


def check_source(source: str | Path, split: SplitName, task: Task) -> None:
    """Check early, by names of files alone, that a source looks like a data set with a split.

    Args:
        source: as for :func:`load_images`.
        split: ``train`` or ``test``.
        task: the data set that the source should hold.

    Raises:
        DatasetError: there is no such source, or it has no files of the split.
    """
    with explain_permissions(source):
        path = find_on_disk(source)
        if path is None or any(reader.has_split(path, split, task) for reader in READERS):
            return
    raise _unknown_layout(path, task)


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


def _describe(
    split: SplitName, images: int, classes: int, sizes: SizeRange | None, task: Task
) -> str:
    """Return, say, ``train: 3,068 images of 4 classes, 180x240 to 640x480 pixels, ...``."""
    side = task.image_size
    text = f"{split}: {images:,} images of {classes:,} classes"
    if sizes is None:
        return f"{text}, to be resized and cropped to {side}x{side} pixels"
    ends = list(dict.fromkeys(f"{w}x{h}" for w, h in (sizes.smallest, sizes.largest)))
    text += f", {' to '.join(ends)} pixels"
    if ends == [f"{side}x{side}"]:
        return text
    cropped = "" if sizes.square and task.resize_size == side else " and cropped"
    return f"{text}, resized{cropped} to {side}x{side}"


def _report_skipped(source: Path, skipped: SkippedFiles) -> None:
    if skipped.total:
        # Hidden files are the system's own, such as .DS_Store; others may be images to the user.
        level = logging.INFO if set(skipped.kinds) == {"hidden"} else logging.WARNING
        _log.log(level, "%s: skipped %s.", source, skipped)


def _unknown_layout(path: Path, task: Task) -> DatasetError:
    layouts = (
        "a folder with train.parquet and test.parquet, an original CIFAR archive, or a folder with"
        " train/<class>/*.png and test/<class>/*.png"
        if task.fits_memory
        else "a folder with train-00000-of-00001.parquet, validation-00000-of-00001.parquet and so"
        " on, or a folder with train/<class>/*.jpg and val/<class>/*.jpg"
    )
    return DatasetError(f"{path} has no images in a known layout.", f"Give {layouts}.", path=path)
