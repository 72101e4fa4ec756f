"""Where a data set's files are: at a path, or under a public data set's name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from delugeserve.data import hub
from delugeserve.data.splits import SplitName
from delugeserve.errors import DatasetError


@contextmanager
def located(source: str | Path, split: SplitName, limit: int | None) -> Iterator[Path]:
    """Find a data set for as long as it is read.

    Args:
        source: a path, or else a public data set's name, which is downloaded.
        split: which split.
        limit: how many images are wanted, None for all.

    Yields:
        A file or folder that exists.

    Raises:
        DatasetError: there is no such source, it may not be read, or no image is wanted.
    """
    if limit is not None and limit < 1:
        raise DatasetError(f"A limit of {limit} images leaves none to read.", "Give 1 or more.")
    with permitted(source):
        yield on_disk(source) or hub.download(os.fspath(source), split)


def on_disk(source: str | Path) -> Path | None:
    """Where a data set's files are; None for a public one, which will have to be downloaded.

    Raises:
        DatasetError: there is no such source.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if os.fspath(source) not in hub.REPOSITORIES:
        raise _no_such_source(os.fspath(source))
    return None


@contextmanager
def permitted(source: str | Path) -> Iterator[None]:
    """Say which file may not be read.

    Raises:
        DatasetError: one may not.
    """
    try:
        yield
    except PermissionError as error:
        raise DatasetError(
            f"{error.filename or source} may not be read.", "Check its permissions."
        ) from error


def _no_such_source(name: str) -> DatasetError:
    nearest = difflib.get_close_matches(name.lower(), hub.REPOSITORIES, n=1, cutoff=0.6)
    if nearest and "/" not in name:
        remedy = f"Did you mean '{nearest[0]}', which is downloaded?"
    else:
        names = " or ".join(f"'{known}'" for known in hub.REPOSITORIES)
        remedy = f"Check the path, or give {names} to download that data set."
    return DatasetError(f"There is no file or folder '{name}'.", remedy)
