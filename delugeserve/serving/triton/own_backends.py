"""Our Python-based backends: how they get into a server's backends folder, and who uses them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from delugeserve.artifacts.manifest import find_manifest
from delugeserve.artifacts.model_config import ENSEMBLE
from delugeserve.artifacts.model_config import FILE_NAME as CONFIG
from delugeserve.artifacts.remedies import export_command
from delugeserve.artifacts.repository import StoredModel
from delugeserve.errors import ServerError
from delugeserve.runtimes import BACKENDS
from delugeserve.runtimes.base import PYTHON_RUNTIME, Backend

_SOURCES = Path(__file__).parents[1] / "backends"
_SHARED = "batching.py"


def find_implementation(model: StoredModel, folder: Path) -> Literal["native", "python"] | None:
    """Return what Triton runs for a model: a native library, a Python file, or nothing.

    Triton takes the library before the Python file, unless ``runtime`` in the model's config.pbtxt
    names one of them.

    Args:
        model: the model to serve.
        folder: the backend's folder.
    """
    library = f"libtriton_{model.backend}.so"
    for file in [model.runtime] if model.runtime else [library, PYTHON_RUNTIME]:
        if (folder / file).is_file():
            return "python" if file == PYTHON_RUNTIME else "native"
    return None


def uses_own_backend(model: StoredModel, backends: Path) -> bool:
    """Return whether Triton runs one of our Python-based backends for a model."""
    folder = backends / model.backend
    return find_implementation(model, folder) == "python" and (folder / _SHARED).is_file()


def add_own_backends(backends: Path, models: Sequence[StoredModel]) -> None:
    """Copy our backends into a backends folder, where native ones do not take precedence.

    Args:
        backends: a folder that holds links to the server's own backends.
        models: the models to serve.
    """
    for record in BACKENDS.values():
        target = backends / record.name
        if target.exists():
            users = [model for model in models if model.backend == record.name]
            if not any(model.runtime == PYTHON_RUNTIME for model in users):
                continue
            native = target.resolve()
            target.unlink()
            # Triton takes both implementations from one folder.
            if any(find_implementation(model, native) == "native" for model in users):
                shutil.copytree(native, target)
        _copy(record, target)


def check_backend(model: StoredModel, backends: Path) -> None:
    """Check that the backend of a model can load it here.

    Args:
        model: the model to serve.
        backends: the backends folder of the server, ours included.

    Raises:
        MissingExtraError: the runtime of the model's backend is not installed.
        MissingDeviceError: the model is a plan for a GPU, and there is none.
        PlanError: the model is a plan for another GPU or another version of its runtime.
        ServerError: the server has no such backend.
    """
    if model.backend == ENSEMBLE:  # the server itself
        return
    record = BACKENDS.get(model.backend)
    own = uses_own_backend(model, backends)
    if record:
        record.check_loadable(model, native=not own)
    if not model.backend:
        raise ServerError(
            f"The configuration of model '{model.name}' names no backend.",
            f'Write backend: "onnxruntime", or the one it is for, in {model.folder / CONFIG}.',
        )
    if not _has_backend(model, backends / model.backend):
        known = {path.name for path in backends.iterdir()} - {model.backend}
        raise _missing_backend(model, sorted(known))
    if record and own:
        record.require_for_serving()


def _missing_backend(model: StoredModel, known: Sequence[str]) -> ServerError:
    manifest = find_manifest(model.folder, model.version)
    if model.companion_of:
        return ServerError(
            f"Model '{model.name}' needs the backend '{model.backend}', which this server does not "
            f"have (it has {', '.join(known)}).",
            f"Export '{model.companion_of}' again with --decoder python, or give a server that has "
            "it with --tritonserver.",
            reasons={model.name: f"The server does not have the backend '{model.backend}'."},
        )
    kind = "Python-based backend" if model.runtime == PYTHON_RUNTIME else "backend"
    return ServerError(
        f"Model '{model.name}' needs the {kind} '{model.backend}', which this server does not "
        f"have (it has {', '.join(known)}).",
        f"Export it for another with: {export_command(model.folder, manifest, 'onnxruntime')}"
        if manifest
        else "Give a server that has it with --tritonserver, or serve only the other models with "
        "--model.",
        reasons={model.name: f"The server does not have the backend '{model.backend}'."},
    )


def uses_cpu_only(model: StoredModel, backends: Path) -> bool:
    """Return whether a model runs in one of our backends or is a companion, on the CPU."""
    if model.companion_of:
        return model.backend in (ENSEMBLE, "python")
    return uses_own_backend(model, backends) and not BACKENDS[model.backend].on_gpu


def _has_backend(model: StoredModel, folder: Path) -> bool:
    if model.runtime == PYTHON_RUNTIME:
        return find_implementation(model, folder) is not None
    return folder.exists()  # a native backend may have a library of another name


def _copy(record: Backend, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for source in (_SOURCES / record.name / PYTHON_RUNTIME, _SOURCES / _SHARED):
        shutil.copy2(source, target)
    for source in record.support_files:
        shutil.copy2(source, target)
