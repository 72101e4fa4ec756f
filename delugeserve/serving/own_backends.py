"""Our Python-based backends: which there are, and how they get into a server's backends folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from delugeserve.artifacts.manifest import find_manifest
from delugeserve.artifacts.remedies import export_command
from delugeserve.artifacts.repository import StoredModel
from delugeserve.errors import MissingExtraError, ServerError
from delugeserve.runtimes import plans

#: Our backends, by Triton's name, and the Python module each of them runs.
OWN_BACKENDS: Mapping[str, str] = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt_rtx",
}

_SOURCES = Path(__file__).parent / "backends"
_ENGINE = Path(__file__).parents[1] / "runtimes" / "tensorrt_engine.py"


def add_own_backends(backends: Path) -> None:
    """Copy our backends into a backends folder, except those it has already."""
    for name in OWN_BACKENDS:
        if not (backends / name).exists():
            _add(backends / name)


def is_own_backend(folder: Path) -> bool:
    """Return whether a backend's folder is one of ours."""
    return (folder / "batching.py").is_file()


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
    folder = backends / model.backend
    plans.require_loadable(model, native=not is_own_backend(folder))
    if not model.backend or not folder.exists():
        known = sorted(path.name for path in backends.iterdir())
        manifest = find_manifest(model.folder, model.version)
        raise ServerError(
            f"Model '{model.name}' needs the backend '{model.backend or '?'}', which this server "
            f"does not have (it has {', '.join(known)}).",
            f"Export it for another with: {export_command(model.folder, manifest, 'onnxruntime')}",
        )
    module = OWN_BACKENDS.get(model.backend)
    if module and is_own_backend(folder) and find_spec(module) is None:
        extra = module.replace("_", "-") if model.backend in plans.DISTRIBUTIONS else "server"
        raise MissingExtraError(module, extra)


def uses_cpu_only(model: StoredModel, backends: Path) -> bool:
    """Return whether a model runs in one of our backends, on the CPU."""
    return model.backend not in plans.DISTRIBUTIONS and is_own_backend(backends / model.backend)


def backend_options(models: list[StoredModel], backends: Path) -> list[str]:
    """Return the server's command-line options that backends of these models need."""
    if any(
        model.backend == "tensorrt"
        and not is_own_backend(backends / model.backend)
        and plans.is_version_compatible(model)
        for model in models
    ):
        # Version-compatible plans contain code, which NVIDIA's backend runs only when allowed to.
        return ["--backend-config=tensorrt,version-compatible=true"]
    return []


def _add(target: Path) -> None:
    target.mkdir()
    sources = [_SOURCES / target.name / "model.py", _SOURCES / "batching.py"]
    if target.name in plans.DISTRIBUTIONS:
        sources.append(_ENGINE)
    for source in sources:
        shutil.copy2(source, target)
