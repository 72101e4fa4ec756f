"""Readers of labelled images: one module for each layout on disk, all with the same functions.

- :mod:`.parquet`: parquet files with encoded images;
- :mod:`.cifar_archives`: the original CIFAR archives, packed or unpacked;
- :mod:`.folders`: image folders, ``train/<class>/*.png``.

A reader returns None for a path that holds another layout, so that the next one can be tried.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from delugeserve.data.encoded import EncodedImages
from delugeserve.data.readers import cifar_archives, folders, parquet
from delugeserve.data.splits import ReadRequest, Split, SplitName
from delugeserve.zoo import Task


class Reader(Protocol):
    """What each module of this package provides."""

    def has_split(self, path: Path, split: SplitName, task: Task) -> bool:
        """Check, by the names of files alone, whether a path holds a split in this layout.

        Args:
            path: a file or folder.
            split: ``train`` or ``test``.
            task: the data set that the files should hold.

        Returns:
            False if the path holds another layout.

        Raises:
            DatasetError: the path has this layout, but the split is missing or incomplete.
            ClassNameError: the name of a class folder is not UTF-8 or contains a line break.
        """

    def read(self, path: Path, request: ReadRequest) -> Split | None:
        """Read and decode the images of a split.

        Args:
            path: a file or folder.
            request: which images.

        Returns:
            Images, labels, class names and what was skipped; None if the path holds another
            layout.

        Raises:
            DatasetError: the path has this layout, but cannot be read.
            MissingExtraError: an optional dependency is not installed.
        """

    def index(self, path: Path, request: ReadRequest) -> EncodedImages | None:
        """List the images of a split with their labels, and decode none.

        Args:
            path: a file or folder.
            request: which images.

        Returns:
            The images; None if the path holds another layout, or one that is only read whole.

        Raises:
            DatasetError: the path has this layout, but cannot be read.
            MissingExtraError: an optional dependency is not installed.
        """


READERS: tuple[Reader, ...] = (parquet, cifar_archives, folders)
"""All readers, in the order in which they are tried."""
