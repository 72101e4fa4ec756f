r"""The class names of a version: ``labels.txt``, one name per line.

Triton's classification extension reads the same file, and ends a line at ``\n`` only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from delugeserve.errors import ClassNameError, RepositoryError

FILE_NAME = "labels.txt"


def check_class_names(names: Iterable[str], source: str | os.PathLike[str]) -> None:
    """Refuse class names that are empty, contain a line break or are not valid UTF-8.

    Line breaks are those of :meth:`str.splitlines`, such as U+0085 (NEL), U+2028 and U+2029: where
    Triton keeps them, another reader would end the line.

    Args:
        names: the class names.
        source: where they come from, for the error, such as a path.

    Raises:
        ClassNameError: a name is refused.
    """
    for name in names:
        if name.splitlines() != [name] or not _is_utf8(name):
            raise ClassNameError(name, source)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # the name of a folder in another encoding
        return False
    return True


def write_labels(folder: Path, class_names: Sequence[str]) -> None:
    """Write ``labels.txt`` into a version's folder.

    Raises:
        ClassNameError: a name is empty, contains a line break or is not valid UTF-8.
    """
    check_class_names(class_names, "This network")
    text = "".join(f"{name}\n" for name in class_names)
    (folder / FILE_NAME).write_bytes(text.encode())


def read_labels(path: Path) -> tuple[str, ...]:
    """Read the class names from a label file; bytes that are not UTF-8 become U+FFFD.

    Raises:
        RepositoryError: the file cannot be read.
    """
    try:
        text = path.read_bytes().decode(errors="replace")
    except OSError as error:
        raise RepositoryError(
            f"{path} cannot be read: {error.strerror or error}.",
            "Copy the version again from where it was exported, or export the model again.",
        ) from error
    return split_names(text)


def split_names(text: str) -> tuple[str, ...]:
    r"""Return the names in a text with one name per line; a line ends at ``\n`` only."""
    return tuple(text.removesuffix("\n").split("\n")) if text else ()
