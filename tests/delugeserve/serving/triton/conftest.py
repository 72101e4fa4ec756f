"""A stand-in for a server's files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from delugeserve.artifacts.repository import StoredModel
from delugeserve.serving.triton import launch
from delugeserve.serving.triton.installation import TritonInstallation
from delugeserve.system import hardware

MakeModel = Callable[..., StoredModel]


@pytest.fixture
def installation(tmp_path: Path) -> TritonInstallation:
    """The files of a server, with dummy contents; the space in the path is deliberate."""
    root = tmp_path / "site packages" / "tritonserver"
    for name in (
        "bin/tritonserver",
        "backends/python/libtriton_python.so",
        "backends/python/triton_python_backend_utils.py",
        "stub/triton_python_backend_stub",
        "libraries/libtriton.so",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
        (root / name).chmod(0o755)
    return TritonInstallation(
        root / "bin" / "tritonserver",
        root / "backends",
        root / "stub" / "triton_python_backend_stub",
        root / "libraries",
    )


@pytest.fixture
def model(tmp_path: Path) -> MakeModel:
    """Make a model's folder, in a repository with a space in its path."""

    def make(backend: str = "onnxruntime", complete: bool = True) -> StoredModel:
        folder = tmp_path / "a repository" / "tiny"
        folder.mkdir(parents=True, exist_ok=True)
        return StoredModel("tiny", folder, backend, complete)

    return make


@pytest.fixture
def prepare(
    installation: TritonInstallation, temporary: Path, model: MakeModel
) -> Iterator[Callable[..., launch.Launch]]:
    """Prepare the launch of a server for some models, by default one."""
    made = []

    def prepare(*models: StoredModel, **options: Any) -> launch.Launch:
        endpoints = launch.Endpoints("127.0.0.1", 8001, None, 8002)
        made.append(launch.prepare(installation, models or [model()], endpoints, **options))
        return made[-1]

    yield prepare
    for one in made:
        one.folder.remove()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that this machine has an NVIDIA L4."""
    found = (hardware.Gpu("NVIDIA L4", "550.54", "8.9", "23034 MiB"),)
    monkeypatch.setattr(hardware, "usable_gpus", lambda: found)
