"""Errors about images and labels."""

from __future__ import annotations

import os
from collections.abc import Iterable

from delugeserve.errors.base import UsageError


class DatasetError(UsageError):
    """Images or labels cannot be read.

    Args:
        problem: what is wrong, with its full stop.
        remedy: what to do about it, with its full stop.
        path: the file or folder that is wrong, if there is one.
        name: what is wrong in it: a split, class, column, file or image.
        expected: what the data set should have there.
        found: what it has.
        extra: classes that it should not have.
        missing: classes that it should have.
    """

    def __init__(
        self,
        problem: str,
        remedy: str,
        *,
        path: str | os.PathLike[str] | None = None,
        name: str | None = None,
        expected: object = None,
        found: object = None,
        extra: Iterable[str] = (),
        missing: Iterable[str] = (),
    ) -> None:
        super().__init__(problem, remedy)
        self.path = None if path is None else os.fspath(path)
        self.name, self.expected, self.found = name, expected, found
        self.extra, self.missing = tuple(extra), tuple(missing)


class ClassNameError(DatasetError):
    """A class name cannot be written to a label file, which has one UTF-8 name per line.

    Args:
        name: the class name.
        source: the path or network that has it.

    Attributes:
        reason: what is wrong with the name.
    """

    def __init__(self, name: str, source: str | os.PathLike[str]) -> None:
        self.reason = "is empty" if not name else "contains a line break"
        try:
            name.encode()
        except UnicodeEncodeError:
            self.reason = "is not valid UTF-8"
        super().__init__(
            f"{source} has the class name {name!r}, which {self.reason}.",
            "Rename the class in the data set, then train on it.",
            path=source,
            name=name,
        )


class UnreadableImageError(DatasetError):
    """An image cannot be decoded; its name is ``name``."""
