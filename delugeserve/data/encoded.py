"""Labelled images as a source holds them: listed and labelled now, decoded later.

Where the encoded images are, in files, in a tar archive or in parquet files, is an
:class:`ImageStore`; which of them belong to a split, and with which labels, is
:class:`EncodedImages`.

Files can be read in any order. A parquet file can only be read in row groups: ImageNet's on the
Hugging Face Hub have 100 images, 11 MB, which take longer to read than an image takes to decode. So
row groups are cached, and ``order.py`` shuffles the images such that each row group is read once or
a few times per epoch instead of a hundred times.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from delugeserve.data.skipped import SkippedFiles

NEARBY = 4096
"""Number of images whose row groups are cached: in each worker, 0.5 GB of ImageNet's."""

Encoded: TypeAlias = "bytes | Path | NDArray[np.uint8]"
"""The content of an image file, its path, or pixels, uint8 ``[H, W, 3]``."""


class ImageStore(ABC):
    """Encoded images, by row number.

    Instances can be pickled: each worker process opens the files itself.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def __getitem__(self, row: int) -> Encoded:
        """Return the content of an image, or the path of its file.

        Raises:
            DatasetError: the file that holds the image is damaged.
        """

    @abstractmethod
    def name(self, row: int) -> str:
        """Return the name of an image for messages."""

    @abstractmethod
    def key(self, row: int) -> str:
        """Return a name of an image that stays the same when the source is moved."""

    @property
    def starts(self) -> NDArray[np.int64]:
        """First row of each group of images that are read at once, int64 ``[G]`` from 0."""
        return np.arange(len(self))

    @abstractmethod
    def fingerprint(self, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> str:
        """Return a hexadecimal SHA-256 that identifies labelled images without reading them."""

    def length(self, row: int) -> int | None:
        """Return the number of bytes of an encoded image if it is known without reading it."""
        return None


@dataclasses.dataclass(frozen=True)
class EncodedImages:
    """Labelled images of one split, none of them decoded. Instances can be pickled.

    Attributes:
        source: path of the files.
        store: where the images are.
        rows: int64 ``[N]``, each image's row in the store.
        labels: int64 ``[N]``, indices into ``class_names``.
        class_names: one per class.
        skipped: files that were not listed because they are not images.
    """

    source: Path
    store: ImageStore
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    skipped: SkippedFiles = dataclasses.field(default_factory=SkippedFiles)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Encoded:
        """Return the content of an encoded image, or the path of its file.

        Args:
            index: from 0 to ``len(self) - 1``.

        Raises:
            DatasetError: the file that holds the image is damaged.
        """
        return self.store[int(self.rows[index])]

    def name(self, index: int) -> str:
        """Return the name of an image for messages: its path, or its row in a parquet file."""
        return self.store.name(int(self.rows[index]))

    @functools.cached_property
    def starts(self) -> NDArray[np.int64]:
        """First image of each group that is read at once, int64 ``[G]`` ascending from 0."""
        groups = np.searchsorted(self.store.starts, self.rows, side="right")
        return np.flatnonzero(np.diff(groups, prepend=-1))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 that identifies the images without reading them.

        It covers the sizes of the files, with their names or with the labels; a change that keeps
        the size of a file goes unnoticed.
        """
        return self.store.fingerprint(self.rows, self.labels)

    def select(self, indices: NDArray[np.int64]) -> EncodedImages:
        """Return some of the images, int64 ``[n]`` in ascending order."""
        return dataclasses.replace(self, rows=self.rows[indices], labels=self.labels[indices])

    def first(self, limit: int | None) -> EncodedImages:
        """Return the first images; all of them for None."""
        return self if limit is None else self.select(np.arange(min(limit, len(self))))

    def relabel(self, labels: NDArray[np.int64], class_names: tuple[str, ...]) -> EncodedImages:
        """Return the images with other labels and class names."""
        return dataclasses.replace(self, labels=labels, class_names=class_names)


class FileStore(ImageStore):
    """Images in files of their own.

    Paths are kept in one block of bytes: a million Python strings would be copied to every worker,
    page by page, as soon as the worker counts references to them.

    Args:
        folder: the folder that relative paths start from.
        paths: the files.
        labelled: whether the paths imply the labels, as those of class folders do.
    """

    def __init__(self, folder: Path, paths: Sequence[str], *, labelled: bool) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self._folder, self._labelled = folder, labelled
        self._ends = np.cumsum([0, *map(len, encoded)])
        self._paths = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: int) -> Path:
        return self._folder / self.key(row)

    def name(self, row: int) -> str:
        """See :meth:`ImageStore.name`."""
        return str(self[row])

    def key(self, row: int) -> str:
        """See :meth:`ImageStore.key`."""
        return os.fsdecode(self._paths[self._ends[row] : self._ends[row + 1]])

    def length(self, row: int) -> int:
        """See :meth:`ImageStore.length`."""
        path = self._paths[self._ends[row] : self._ends[row + 1]]
        try:  # pathlib takes ten times as long, which shows for a million files
            return os.stat(os.path.join(os.fsencode(self._folder), path)).st_size  # noqa: PTH116, PTH118
        except OSError:  # removed since it was listed; decoding the image reports that
            return -1

    def fingerprint(self, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> str:
        """See :meth:`ImageStore.fingerprint`."""
        lines = [f"{self.key(row)}\0{self.length(row)}" for row in rows.tolist()]
        if not self._labelled:
            lines = [f"{line}\0{label}" for line, label in zip(lines, labels.tolist(), strict=True)]
        return hashlib.sha256("\n".join(sorted(lines)).encode(errors="surrogateescape")).hexdigest()


class PixelStore(ImageStore):
    """Decoded images of one size, in memory.

    Args:
        source: path of the files.
        pixels: uint8 ``[N, H, W, 3]``, RGB.
    """

    def __init__(self, source: Path, pixels: NDArray[np.uint8]) -> None:
        self._source, self.pixels = source, pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        image: NDArray[np.uint8] = self.pixels[row]
        return image

    def name(self, row: int) -> str:
        """See :meth:`ImageStore.name`."""
        return f"Image {row} of {self._source} (counted from 0)"

    def key(self, row: int) -> str:
        """See :meth:`ImageStore.key`."""
        return str(row)

    def length(self, row: int) -> int:
        """See :meth:`ImageStore.length`."""
        return int(self.pixels[row].size)

    def fingerprint(self, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> str:
        """See :meth:`ImageStore.fingerprint`."""
        digest = hashlib.sha256(self.pixels[rows].tobytes())
        digest.update(labels.astype("<i8").tobytes())
        return digest.hexdigest()
