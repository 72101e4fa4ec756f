"""Labelled images that do not fit into memory: listed and labelled now, decoded later.

ImageNet has 1.28 million training images in 138 GB. In an image folder each of them is a file, and
files can be read in any order. On the Hugging Face Hub they are 294 parquet files of 44 row groups
of 100 images, and a row group can only be read as a whole: 11 MB, which takes longer than decoding
an image. So row groups are cached, and ``order.py`` shuffles the images such that each row group is
read once or a few times per epoch instead of a hundred times.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from delugeserve.data.skipped import SkippedFiles

NEARBY = 4096
"""Number of images whose row groups are cached: in each worker, 0.5 GB of ImageNet's."""


class EncodedImages(ABC):
    """Labelled images as their files hold them, none of them decoded.

    Instances can be pickled: each worker process opens the files itself.

    Args:
        source: path of the files.
        labels: int64 ``[N]``, indices into ``class_names``.
        class_names: one per class of the data set.
        fingerprint: hexadecimal SHA-256 that identifies the images without reading them. It covers
            the sizes of the files, with their names in an image folder and with the labels in
            parquet files; a change that keeps the size of a file goes unnoticed.
        starts: int64 ``[G]``, ascending from 0. The images from one start to the next are read at
            once.
        skipped: files that were not listed because they are not images.
    """

    def __init__(
        self,
        source: Path,
        labels: NDArray[np.int64],
        class_names: tuple[str, ...],
        fingerprint: str,
        starts: NDArray[np.int64],
        skipped: SkippedFiles,
    ) -> None:
        self.source = source
        self.labels = labels
        self.class_names = class_names
        self.fingerprint = fingerprint
        self.starts = starts
        self.skipped = skipped

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def __getitem__(self, index: int) -> bytes | Path:
        """Return the content of an encoded image, or the path of its file.

        Args:
            index: from 0 to ``len(self) - 1``.

        Raises:
            DatasetError: the file that holds the image is damaged.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name of an image for messages: its path, or its row in a parquet file."""
