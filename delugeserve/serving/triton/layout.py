"""The private folder that a server runs from.

It holds links: to the models that are served (so that nothing else in the repository is loaded, and
no client can make the server load more), to the server's backends, and copies of our backends.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from delugeserve.artifacts.repository import StoredModel
from delugeserve.errors import ServerError
from delugeserve.serving.triton import own_backends
from delugeserve.serving.triton.guardian import remove_traces
from delugeserve.serving.triton.installation import TritonInstallation

_log = logging.getLogger(__name__)

FOLDER_PREFIX = "delugeserve-"
#: Where the private folder goes if TMPDIR does not suit.
FALLBACK_FOLDERS = ("/tmp", "/var/tmp")  # noqa: S108
_LOCK = "lock"


@dataclass(frozen=True)
class PrivateFolder:
    """A server's private folder, locked.

    Attributes:
        path: the folder.
        lock: the open file that holds its lock. The guardian inherits it, so the folder counts as
            in use as long as the guardian lives, in whatever container.
    """

    path: Path
    lock: TextIO

    @property
    def models(self) -> Path:
        """The model repository that the server reads."""
        return self.path / "models"

    @property
    def backends(self) -> Path:
        """The backends folder that the server reads."""
        return self.path / "backends"

    @property
    def shm_prefix(self) -> str:
        """How the names of the server's shared-memory regions start."""
        return _shm_prefix(self.path)

    def remove(self) -> None:
        """Remove the folder and the server's shared memory."""
        self.lock.close()
        remove_traces(self.path, self.shm_prefix)


def create_folder() -> PrivateFolder:
    """Create a private folder under the temporary folder, and lock it.

    Raises:
        ServerError: no temporary folder suits.
    """
    import fcntl  # not on Windows, where this module must import so that the error can be shown

    while True:
        path = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=_temporary_folder()))
        lock = (path / _LOCK).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock.fileno()).st_nlink:
            return PrivateFolder(path, lock)
        lock.close()  # a sweep found the folder before it was locked, and removed it


def lay_out(
    folder: PrivateFolder, installation: TritonInstallation, models: Sequence[StoredModel]
) -> None:
    """Fill a private folder with backends and models.

    Raises:
        MissingExtraError: the runtime of a model's backend is not installed.
        MissingDeviceError: a model is a plan for a GPU, and there is none.
        PlanError: a model is a plan for another GPU or another version of its runtime.
        ServerError: a model needs a backend that the server does not have.
    """
    backends = folder.backends
    backends.mkdir()
    for backend in installation.backends.iterdir():
        if backend.name != "python" and backend.is_dir():
            (backends / backend.name).symlink_to(backend)
    if (installation.backends / "python").is_dir():
        _add_python_backend(backends / "python", installation)
        own_backends.add_own_backends(backends, models)
    for model in models:
        own_backends.check_backend(model, backends)
    folder.models.mkdir()
    for model in models:
        (folder.models / model.name).symlink_to(model.folder, target_is_directory=True)


def sweep() -> None:
    """Remove the private folders and the shared memory of servers that were killed.

    Looks only where :func:`create_folder` would create one now. A folder whose lock is held is in
    use.
    """
    import fcntl

    for lock_file in Path(_temporary_folder()).glob(f"{FOLDER_PREFIX}*/{_LOCK}"):
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


def _temporary_folder() -> str:
    """Return the first temporary folder that suits a server."""
    unsuited = []
    for place in dict.fromkeys([tempfile.gettempdir(), *FALLBACK_FOLDERS]):
        reason = _reason_against(place)
        if not reason:
            return place
        unsuited.append(f"{place} {reason}")
    raise ServerError(
        f"No temporary folder can hold the server's files: {'; '.join(unsuited)}.",
        "Set TMPDIR to a writable folder, on a file system that allows programs to run, with "
        "neither a space nor a colon in its path.",
    )


def _reason_against(place: str) -> str:
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


def _add_python_backend(target: Path, installation: TritonInstallation) -> None:
    source = installation.backends / "python"
    if installation.stub is None:
        target.symlink_to(source)
        return
    target.mkdir()
    # The server refuses a backend library that is a link out of the backend's folder.
    shutil.copy2(source / "libtriton_python.so", target)
    (target / "triton_python_backend_utils.py").symlink_to(
        source / "triton_python_backend_utils.py"
    )
    (target / installation.stub.name).symlink_to(installation.stub)
