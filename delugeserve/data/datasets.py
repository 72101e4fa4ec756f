"""Reading labelled images, whole, into memory.

The source may be

- a folder of parquet files, or one such file (``parquet.py``);
- the original CIFAR archives, packed or unpacked (``cifar_archives.py``);
- an image folder, ``train/<class>/*.png`` (``folders.py``);
- the name of a public data set, which is downloaded (``hub.py``).

Whatever it is, labels come out in the order of the data set's classes in ``zoo.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from delugeserve.data import cifar_archives, folders, parquet
from delugeserve.data.sources import located, on_disk, permitted
from delugeserve.data.splits import Split, SplitName, align
from delugeserve.data.unreadable import Sieve, Skip
from delugeserve.errors import DatasetError
from delugeserve.zoo import DatasetSpec

__all__ = ["LabelledImages", "SplitName", "check_source", "load_images"]


@dataclass(frozen=True)
class LabelledImages:
    """Images with their classes.

    Attributes:
        images: uint8 ``[N, H, W, 3]``, RGB.
        labels: int64 ``[N]``, indices into ``class_names``.
        class_names: one for each class of the data set.
        fingerprint: hexadecimal SHA-256 of the labelled pixels; neither the file format nor the
            order of the images changes it.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    def require_classes(self, class_names: Sequence[str], classifier: str) -> None:
        """Make sure that a classifier's answers can be compared with the labels.

        Args:
            class_names: the classifier's, in the order of its logits.
            classifier: what to call it.

        Raises:
            DatasetError: the images are labelled with other classes, or in another order.
        """
        if tuple(class_names) != self.class_names:
            raise DatasetError(
                f"{classifier} tells apart {_few(class_names)}, and the images are labelled "
                f"{_few(self.class_names)}.",
                "Give a data set with the classes that it was trained on, in the same order.",
            )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def load_images(
    source: str | Path,
    split: SplitName,
    dataset: DatasetSpec,
    *,
    limit: int | None = None,
    skip: Skip | None = None,
) -> LabelledImages:
    """Read one split of a data set.

    Args:
        source: a folder, a file, or a public data set's name, as the module's docstring says; what
            is on the disk goes before a name.
        split: ``train`` or ``test``.
        dataset: how large the images are and how many classes there are.
        limit: at most so many images, the first ones; of an image folder, equally many of each
            class. None for all.
        skip: leave out images that cannot be decoded, and tell their names to this.

    Returns:
        All of them, in the order in which the source has them.

    Raises:
        DatasetError: there is no such source, or it does not hold what it should.
        MissingExtraError: the extra ``train`` is not installed.
    """
    with located(source, split, limit) as path:
        sieve = Sieve(skip)
        found = sieve.apply(_read(path, split, dataset, limit, sieve))
    labels, class_names = align(found.source, found.labels, found.class_names, dataset)
    return LabelledImages(found.images, labels, class_names, fingerprint(found.images, labels))


def check_source(source: str | Path, split: SplitName, dataset: DatasetSpec) -> None:
    """Find out early whether a source looks like a data set with that split; no file is opened.

    Args:
        source: as :func:`load_images` takes it.
        split: which split.
        dataset: the data set that it should be.

    Raises:
        DatasetError: there is no such source, or no file of the split in it.
    """
    with permitted(source):
        path = on_disk(source)
        if path is not None and not (
            parquet.find_files(path, split, dataset)
            or cifar_archives.is_there(path, split, dataset)
            or folders.find_split(path, split)
        ):
            raise _no_data_set(path)


def fingerprint(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
    """Name a set of labelled images by its content, whatever their order.

    Args:
        images: uint8 ``[N, H, W, 3]``.
        labels: int64 ``[N]``.

    Returns:
        Hexadecimal SHA-256 over the images' shape and the sorted SHA-256 digests of each label
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


def _read(
    path: Path, split: SplitName, dataset: DatasetSpec, limit: int | None, sieve: Sieve
) -> Split:
    # An archive holds pixels, which cannot be unreadable one by one.
    for read in (
        partial(parquet.read, sieve=sieve),
        cifar_archives.read,
        partial(folders.read, sieve=sieve),
    ):
        found = read(path, split, dataset, limit)
        if found is not None:
            return found
    raise _no_data_set(path)


def _no_data_set(path: Path) -> DatasetError:
    return DatasetError(
        f"{path} holds no images that can be read as a data set.",
        "Give a folder with train.parquet and test.parquet, one of the original CIFAR archives, or"
        " a folder with train/<class>/*.png and test/<class>/*.png.",
    )
