"""The private folder that a server runs from.

It holds links: to the models that are served (so that nothing else in the repository is loaded, and
no client can make the server load more), to the server's backends, and copies of our backends.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from delugeserve.artifacts.repository import StoredModel
from delugeserve.serving.private_folder import PrivateFolder
from delugeserve.serving.triton import own_backends
from delugeserve.serving.triton.installation import TritonInstallation


class ServerFolder(PrivateFolder):
    """The private folder of a tritonserver."""

    @property
    def models(self) -> Path:
        """The model repository that the server reads."""
        return self.path / "models"

    @property
    def backends(self) -> Path:
        """The backends folder that the server reads."""
        return self.path / "backends"


def lay_out(
    folder: ServerFolder,
    installation: TritonInstallation,
    models: Sequence[StoredModel],
    place: Callable[[Path], None] | None = None,
) -> None:
    """Fill a private folder with backends and models.

    Args:
        folder: the private folder.
        installation: the server.
        models: the models to serve.
        place: writes the models into the folder given; None links them to where they are stored.

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
    if place is not None:
        place(folder.models)
        return
    for model in models:
        (folder.models / model.name).symlink_to(model.folder, target_is_directory=True)


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
