"""Where the files of a data set are: at a path, or under the name of a public data set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from delugeserve.data import hub
from delugeserve.errors import DatasetError, nearest_name, nearest_path
from delugeserve.system.files import make_readable


def find_on_disk(source: str | Path) -> Path | None:
    """Return the path of a data set; None for a public one that has to be downloaded.

    Raises:
        DatasetError: there is no such source.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    # "data/flowers" is more likely a misspelt path than a data set, if there is a folder "data".
    if not hub.is_name(os.fspath(source)) or ("/" in str(source) and path.parent.is_dir()):
        raise _no_such_source(os.fspath(source))
    return None


@contextmanager
def explain_permissions(source: str | Path) -> Iterator[None]:
    """Turn a permission error of the body into a :class:`DatasetError`.

    Raises:
        DatasetError: a file may not be read.
    """
    try:
        yield
    except PermissionError as error:
        path = error.filename or source
        raise DatasetError(
            f"{path} may not be read.", make_readable(Path(path)), path=path
        ) from error


def _no_such_source(name: str) -> DatasetError:
    beside = nearest_path(Path(name).expanduser())
    nearest = None if "/" in name else nearest_name(name.lower(), hub.REPOSITORIES, 0.6)
    if beside:
        remedy, nearest = f"Did you mean '{beside}'?", beside
    elif nearest:
        remedy = f"Did you mean '{nearest}', which is downloaded?"
    else:
        names = " or ".join(f"'{known}'" for known in hub.REPOSITORIES)
        remedy = f"Check the path, or give {names} to download that data set."
    return DatasetError(
        f"There is no file or folder '{name}'.",
        remedy,
        path=name,
        name=nearest,
        expected=tuple(hub.REPOSITORIES),
    )
