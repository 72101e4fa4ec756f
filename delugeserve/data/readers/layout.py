"""What every reader returns: a layout on disk that can list its splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

from delugeserve.data.splits import Listing, SplitName
from delugeserve.errors import DatasetError
from delugeserve.system.progress import NO_PROGRESS, Progress

Form = Literal["class folders", "CSV", "parquet", "WebDataset", "CIFAR archive"]


class Layout(ABC):
    """The files of a source. None of them is opened before a split is listed.

    Attributes:
        form: the kind of layout.
        path: the file or folder that was given.
        splits: the splits that it has, in the order train, validation, test.
        divided: False if the files name no split; all images are then listed as ``train``.
    """

    form: Form
    path: Path
    splits: tuple[SplitName, ...]
    divided: bool

    @abstractmethod
    def list_split(
        self, split: SplitName, *, limit: int | None = None, progress: Progress = NO_PROGRESS
    ) -> Listing:
        """List the images of a split with their labels, and decode none.

        Args:
            split: one of :attr:`splits`.
            limit: the most images, from the start; in class folders the classes take turns. None
                for all.
            progress: receives the number of files read.

        Raises:
            DatasetError: the files cannot be read.
            ClassNameError: a class name is empty, has a line break or is not UTF-8.
            MissingExtraError: an optional dependency is not installed.
        """

    @abstractmethod
    def missing(self, split: SplitName) -> DatasetError:
        """Return the error about a split that the source does not have."""

    def check(self, split: SplitName) -> None:  # noqa: B027 - most layouts have nothing to check
        """Check, by the names of files alone, that a split can be listed.

        Raises:
            DatasetError: files are missing.
            ClassNameError: the name of a class folder has a line break or is not UTF-8.
        """
