"""What a real Triton runs where a backend's folder has a native library next to our files.

The library is a file that does not load, so a model that needs it does not load either.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from delugeserve import serving
from delugeserve.artifacts.repository import find_models
from delugeserve.errors import ServerError
from delugeserve.networks.build import build_network
from delugeserve.networks.checkpoint import Checkpoint, save_checkpoint
from delugeserve.runtimes import BACKENDS
from delugeserve.serving import supervisor
from delugeserve.serving.supervisor import serve
from delugeserve.serving.triton import own_backends
from delugeserve.serving.triton.installation import find_tritonserver
from delugeserve.serving.triton.own_backends import find_implementation
from delugeserve.zoo import CIFAR10, Architecture, ModelSpec
from delugeserve_client import Classifier
from delugeserve_export import export, plan_export

pytest.importorskip("openvino", reason="needs delugeserve[export,server]")
pytest.importorskip("pytriton.constants", reason="there is no tritonserver (nvidia-pytriton)")
pytestmark = pytest.mark.system

PORTS = {"grpc_port": 0, "http_port": None, "metrics_port": None, "direct": True}
SOURCES = Path(serving.__file__).parent / "backends"


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A repository with one model for OpenVINO."""
    folder = tmp_path_factory.mktemp("openvino")
    spec = ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6), (1, 1)), CIFAR10)
    weights = build_network(spec).eval().state_dict()
    save_checkpoint(Checkpoint(spec, weights), folder / "tiny.safetensors")
    plan = plan_export(
        spec,
        folder / "tiny.safetensors",
        repository=folder / "models",
        backend="openvino",
        precision="fp32",
        max_batch_size=4,
    )
    export(plan)
    return folder / "models"


@pytest.fixture
def repository(exported, tmp_path) -> Path:
    shutil.copytree(exported, tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def native(tmp_path, monkeypatch) -> Path:
    """The folder of a native OpenVINO backend in an otherwise real server."""
    found = find_tritonserver()
    backends = tmp_path / "backends"
    backends.mkdir()
    (backends / "python").symlink_to(found.backends / "python")
    folder = backends / "openvino"
    folder.mkdir()
    (folder / "libtriton_openvino.so").write_text("not a library")
    monkeypatch.setattr(
        supervisor,
        "find_tritonserver",
        lambda *_: dataclasses.replace(found, backends=backends),
    )
    return folder


def answers(repository: Path) -> bool:
    """Whether the model loads and answers."""
    with serve(repository, **PORTS) as server, Classifier(server.grpc_url) as classifier:
        probabilities = classifier.infer(np.zeros((3, 32, 32, 3), np.uint8))
    return probabilities.shape == (3, 10)


def test_serve_uses_our_backend_for_an_exported_model(native, repository):
    assert answers(repository)


@pytest.mark.parametrize("runtime", ["model.py", ""])
def test_triton_chooses_as_predicted(native, repository, monkeypatch, runtime):
    """Both implementations are in one folder, as in a container to which our files were added."""
    sources = (SOURCES / "batching.py", SOURCES / "openvino" / "model.py")
    for source in (*sources, *BACKENDS["openvino"].support_files):
        shutil.copy2(source, native)
    monkeypatch.setattr(own_backends, "add_own_backends", lambda *_: None)
    config = repository / "tiny" / "config.pbtxt"
    config.write_text(config.read_text().replace('runtime: "model.py"', f'runtime: "{runtime}"'))
    (model,) = find_models(repository)
    predicted = find_implementation(model, native)
    assert predicted == ("python" if runtime else "native")
    if predicted == "python":
        assert answers(repository)
    else:
        with pytest.raises(ServerError, match="'tiny' did not load"):
            answers(repository)
