"""The private folder that a process of a server runs from: created, locked, removed, swept."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, TypeVar

from delugeserve.errors import ServerError
from delugeserve.serving.guardian import remove_traces

_log = logging.getLogger(__name__)

FOLDER_PREFIX = "delugeserve-"
#: Where the private folder goes if TMPDIR does not suit.
FALLBACK_FOLDERS = ("/tmp", "/var/tmp")  # noqa: S108
_LOCK = "lock"
_Folder = TypeVar("_Folder", bound="PrivateFolder")


@dataclass(frozen=True)
class PrivateFolder:
    """A private folder, locked; only its owner can read it.

    Attributes:
        path: the folder.
        lock: the open file that holds its lock. The guardian inherits it, so the folder counts as
            in use as long as the guardian lives, in whatever container.
    """

    path: Path
    lock: TextIO

    @classmethod
    def create(cls: type[_Folder]) -> _Folder:
        """Create a private folder under the temporary folder, and lock it.

        Raises:
            ServerError: no temporary folder suits.
        """
        import fcntl  # not on Windows, where this must import so that the error can be shown

        while True:
            place = find_temporary_folder()
            try:
                path = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=place))
                lock = (path / _LOCK).open("w")
            except OSError as error:
                raise cannot_write(place, error) from error
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock.fileno()).st_nlink:
                return cls(path, lock)
            lock.close()  # a sweep found the folder before it was locked, and removed it

    @property
    def shm_prefix(self) -> str:
        """How the names of the server's shared-memory regions start."""
        return _shm_prefix(self.path)

    def remove(self) -> None:
        """Remove the folder and the server's shared memory."""
        self.lock.close()
        remove_traces(self.path, self.shm_prefix)


def sweep() -> None:
    """Remove the private folders and the shared memory of servers that were killed.

    Looks only where :meth:`PrivateFolder.create` would create one now. A folder whose lock is held
    is in use.
    """
    import fcntl

    for lock_file in Path(find_temporary_folder()).glob(f"{FOLDER_PREFIX}*/{_LOCK}"):
        try:
            if lock_file.stat().st_uid != os.getuid():
                continue
            lock = os.open(lock_file, os.O_RDWR)
        except OSError:  # it was removed just now
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_traces(lock_file.parent, _shm_prefix(lock_file.parent))
            _log.info("removed what a killed server left in %s", lock_file.parent)
        except OSError:  # in use
            pass
        finally:
            os.close(lock)


def cannot_write(place: str | os.PathLike[str], error: OSError) -> ServerError:
    """Return the error for a temporary folder that a server's files cannot be written to."""
    return ServerError(
        f"The server's files cannot be written to {os.fspath(place)} ({error.strerror}).",
        "Free some space there, or set TMPDIR to a folder on another file system.",
    )


def find_temporary_folder() -> str:
    """Return the first temporary folder that suits a server.

    Raises:
        ServerError: none does.
    """
    unsuited = []
    for place in dict.fromkeys([tempfile.gettempdir(), *FALLBACK_FOLDERS]):
        reason = reason_against(place)
        if not reason:
            return place
        unsuited.append(f"{place} {reason}")
    raise ServerError(
        f"No temporary folder can hold the server's files: {'; '.join(unsuited)}.",
        "Set TMPDIR to a writable folder, on a file system that allows programs to run, with "
        "neither a space nor a colon in its path.",
    )


def reason_against(place: str) -> str:
    """Return why a temporary folder does not suit a server; empty if it does."""
    if re.search(r"[\s:]", place):
        # A space breaks the server's Python backend, a colon separates paths.
        return "has a space or a colon in its path"
    try:
        status = os.statvfs(place)
    except OSError:
        return "does not exist"
    if not os.access(place, os.W_OK | os.X_OK):
        return "is not writable"
    if status.f_flag & os.ST_NOEXEC:
        return "is mounted noexec"
    return ""


def _shm_prefix(folder: Path) -> str:
    return f"{folder.name}_"
