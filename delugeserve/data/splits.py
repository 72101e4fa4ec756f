"""Splits of a data set: their names, what a reader says about one, and the sizes of its images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from delugeserve.data.encoded import EncodedImages, ImageStore
from delugeserve.data.skipped import SkippedFiles

SplitName = Literal["train", "validation", "test"]

SPLIT_NAMES: dict[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""Names of files and folders that hold a split, in any case."""

Size = tuple[int, int]
"""Width and height in pixels."""


def split_named(name: str) -> SplitName | None:
    """Return the split that a file or folder of this name holds, or None."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


@dataclass(frozen=True)
class Listing:
    """The images of a split as its files list and label them.

    Attributes:
        source: path of the files.
        store: where the images are.
        labels: int64 ``[N]``, of each row of the store; not yet checked.
        class_names: in the order of the labels; None if the files do not name the classes.
        skipped: files that were not listed because they are not images.
    """

    source: Path
    store: ImageStore
    labels: NDArray[np.int64]
    class_names: tuple[str, ...] | None
    skipped: SkippedFiles = field(default_factory=SkippedFiles)

    def labelled(self, labels: NDArray[np.int64], class_names: tuple[str, ...]) -> EncodedImages:
        """Return the images with labels that were checked, int64 ``[N]``."""
        rows = np.arange(len(labels))
        return EncodedImages(self.source, self.store, rows, labels, class_names, self.skipped)


@dataclass(frozen=True)
class SizeRange:
    """The sizes of a set of images before resizing.

    Attributes:
        smallest: the size with the fewest pixels.
        largest: the size with the most pixels.
        square: whether every image is as wide as it is high.
    """

    smallest: Size
    largest: Size
    square: bool

    @classmethod
    def of(cls, sizes: Iterable[Size]) -> SizeRange | None:
        """Return the range of some sizes, or None if there are none."""
        unique = sorted(set(sizes), key=lambda size: (size[0] * size[1], size))
        if not unique:
            return None
        return cls(unique[0], unique[-1], all(width == height for width, height in unique))

    def __str__(self) -> str:
        """Return, for example, ``180x240 to 640x480``."""
        ends = dict.fromkeys(f"{w}x{h}" for w, h in (self.smallest, self.largest))
        return " to ".join(ends)
