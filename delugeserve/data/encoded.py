"""Labelled images too many for the memory: found and labelled now, read one by one later.

The source may be an image folder (``folders.py``) or a folder of parquet files (``parquet.py``).
ImageNet's training images are 1.28 million in 138 GB. In an image folder each is a file, and any
order is as good as another. On the Hugging Face Hub they are 294 parquet files of 44 row groups of
100 images, and a row group can only be read as a whole: 11 MB, which takes longer than decoding an
image. So row groups are kept in memory for a while, and ``order.py`` shuffles the images in such a
way that each is read once or a few times an epoch, and not a hundred times.
"""

from __future__ import annotations

import functools
import hashlib
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delugeserve.data import folders, parquet
from delugeserve.data.sources import located
from delugeserve.data.splits import SplitName, align
from delugeserve.errors import DatasetError, require
from delugeserve.zoo import DatasetSpec

NEARBY = 4096
"""From how many images the row groups are kept in memory: in each worker, 0.5 GB of ImageNet's."""


class EncodedImages(ABC):
    """Labelled images as their files hold them, none of them decoded.

    They can be pickled: each worker process opens the files itself.

    Attributes:
        labels: int64 ``[N]``, indices into ``class_names``.
        class_names: one for each class of the data set.
        fingerprint: hexadecimal SHA-256 that stands for the images without reading them: of the
            files' sizes, with their names in an image folder and with the labels in parquet files.
            An image that is changed and keeps its size goes unnoticed.
        starts: int64 ``[G]``, ascending from 0: from each of these images to the next, all are
            read in one go.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        class_names: tuple[str, ...],
        fingerprint: str,
        starts: NDArray[np.int64],
    ) -> None:
        self.labels = labels
        self.class_names = class_names
        self.fingerprint = fingerprint
        self.starts = starts

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def __getitem__(self, index: int) -> bytes | Path:
        """The content of an encoded image, or the path of the file that holds it.

        Args:
            index: from 0 to ``len(self) - 1``.

        Raises:
            DatasetError: the file of many images that holds it is damaged.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call an image in a message."""


def index_images(
    source: str | Path, split: SplitName, dataset: DatasetSpec, *, limit: int | None = None
) -> EncodedImages:
    """Find the images of one split of a data set, and read their labels.

    Args:
        source: an image folder, a folder of parquet files or one such file, or a public data set's
            name; what is on the disk goes before a name.
        split: ``train`` or ``test``.
        dataset: how many classes there are.
        limit: at most so many images, the first ones; of an image folder, equally many of each
            class. None for all.

    Returns:
        All of them, in the order in which the source has them.

    Raises:
        DatasetError: there is no such source, or it does not hold what it should.
        MissingExtraError: the extra ``train`` is not installed.
    """
    with located(source, split, limit) as path:
        for index in (_index_parquet, _index_folder):
            found = index(path, split, dataset, limit)
            if found is not None:
                return found
    raise DatasetError(
        f"{path} holds no images that can be read as a data set.",
        "Give a folder with train-00000-of-00001.parquet and validation-00000-of-00001.parquet and"
        " so on, or one with train/<class>/*.jpg and val/<class>/*.jpg.",
    )


class _ImageFiles(EncodedImages):
    """An image folder.

    Names lie in one array, and not in a million Python objects: those would be copied to every
    worker, or their pages be, as soon as a worker counts a reference.
    """

    def __init__(self, found: folders.Listing, dataset: DatasetSpec) -> None:
        labels, class_names = align(str(found.folder), found.labels, found.class_names, dataset)
        self._folder = found.folder
        self._classes = found.classes
        self._class_of = found.labels
        self._names = np.array([os.fsencode(name) for _, name in found.files])
        listing = sorted(
            f"{found.classes[label]}/{name}\0{_size(found.folder / found.classes[label] / name)}"
            for label, name in found.files
        )
        fingerprint = hashlib.sha256("\n".join(listing).encode(errors="surrogateescape"))
        super().__init__(labels, class_names, fingerprint.hexdigest(), np.arange(len(labels)))

    def __getitem__(self, index: int) -> Path:
        name = os.fsdecode(bytes(self._names[index]))
        return Path(self._folder, self._classes[self._class_of[index]], name)

    def name(self, index: int) -> str:
        return str(self[index])


class _ParquetRows(EncodedImages):
    """The rows of parquet files."""

    def __init__(
        self,
        files: list[Path],
        labels: NDArray[np.int64],
        class_names: tuple[str, ...],
        groups: NDArray[np.int64],
    ) -> None:
        """Take over what ``_index_parquet`` found.

        Args:
            files: the files, in order.
            labels: int64 ``[N]``.
            class_names: one for each class.
            groups: int64 ``[G, 3]``, of each row group its file, its number in the file, and the
                first image.
        """
        sizes = [file.stat().st_size for file in files]
        fingerprint = hashlib.sha256(repr(sizes).encode())
        fingerprint.update(labels.astype("<i8").tobytes())
        super().__init__(labels, class_names, fingerprint.hexdigest(), groups[:, 2])
        self._files = files
        self._groups = groups
        self._forget()

    def _forget(self) -> None:
        """Start with no file open and no row group in memory."""
        kept = NEARBY * len(self._groups) // len(self) + 2
        self._open = functools.lru_cache(None)(parquet.open_file)
        self._row_group = functools.lru_cache(kept)(self._read_row_group)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_open", "_row_group")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def __getitem__(self, index: int) -> bytes:
        group = self._group_of(index)
        encoded: bytes | None = self._row_group(group)[index - self.starts[group]].as_py()
        return encoded or b""

    def name(self, index: int) -> str:
        file = self._groups[self._group_of(index), 0]
        first = self.starts[np.searchsorted(self._groups[:, 0], file)]
        return f"The image in row {index - first} of {self._files[file]} (counted from 0)"

    def _group_of(self, index: int) -> int:
        return int(np.searchsorted(self.starts, index, side="right")) - 1

    def _read_row_group(self, group: int) -> Any:
        """The column of encoded images, a pyarrow ``ChunkedArray`` of binary."""
        number, group_in_file, _ = self._groups[group]
        path = self._files[number]
        file = self._open(path)
        struct, encoded = parquet.image_column(path, file.schema_arrow)
        pyarrow = require("pyarrow", "train")
        try:
            # Without threads: each core has a worker already.
            table = file.read_row_group(int(group_in_file), columns=[encoded], use_threads=False)
        except (pyarrow.ArrowException, OSError) as error:
            raise parquet.damaged(path) from error
        column = table.column(0)
        return column if encoded == struct else column.flatten()[0]


def _index_folder(
    path: Path, split: SplitName, dataset: DatasetSpec, limit: int | None
) -> EncodedImages | None:
    found = folders.list_images(path, split, dataset, limit)
    return None if found is None else _ImageFiles(found, dataset)


def _index_parquet(
    path: Path, split: SplitName, dataset: DatasetSpec, limit: int | None
) -> EncodedImages | None:
    files = parquet.find_files(path, split, dataset)
    if files is None:
        return None
    labels, groups, count = [], [], 0
    for number, name in enumerate(files):
        file = parquet.open_file(name)
        parquet.image_column(name, file.schema_arrow)
        labels.append(parquet.read_labels(name, file))
        for group in range(file.metadata.num_row_groups):
            groups.append((number, group, count))
            count += file.metadata.row_group(group).num_rows
        if limit is not None and count >= limit:
            break
    names = parquet.class_names(parquet.open_file(files[0]))
    wanted = np.concatenate(labels)[:limit]
    aligned, class_names = align(parquet.name_of(files), wanted, names, dataset)
    starting = [group for group in groups if group[2] < len(aligned)]
    return _ParquetRows(files, aligned, class_names, np.array(starting, np.int64))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # a dangling link, for one: reading the image will say so
        return -1
