"""A plan and its Python backend in a real Triton, up to the first call to CUDA."""

from __future__ import annotations

from pathlib import Path

import pytest

from delugeserve.errors import ServerError
from delugeserve.networks.build import build_network
from delugeserve.networks.checkpoint import Checkpoint, save_checkpoint
from delugeserve.serving.supervisor import serve
from delugeserve.serving.triton import environment
from delugeserve.system import hardware
from delugeserve.system.hardware import Gpu
from delugeserve.zoo import CIFAR10, Architecture, ModelSpec
from delugeserve_export import export, plan_export

runtime = pytest.importorskip(
    "tensorrt_rtx", reason="needs TensorRT-RTX: delugeserve[tensorrt-rtx]"
)
pytest.importorskip("cuda.bindings", reason="needs CUDA's bindings: delugeserve[tensorrt-rtx]")
pytest.importorskip("pytriton.constants", reason="there is no tritonserver (nvidia-pytriton)")
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(bool(hardware.usable_gpus()), reason="this machine has a GPU"),
]


def test_the_backend_loads_in_a_real_server_up_to_cuda(tmp_path, monkeypatch):
    spec = ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6), (2, 2)), CIFAR10)
    weights = build_network(spec).eval().state_dict()
    save_checkpoint(Checkpoint(spec, weights), tmp_path / "tiny.safetensors")
    repository = tmp_path / "repository"
    plan = plan_export(
        spec,
        tmp_path / "tiny.safetensors",
        repository=repository,
        backend="tensorrt-rtx",
        precision="fp32",
        max_batch_size=4,
    )
    export(plan)

    # Pretend that there is a GPU. The server itself would refuse KIND_GPU before the backend loads.
    config = repository / "tiny" / "config.pbtxt"
    config.write_text(config.read_text().replace("KIND_GPU", "KIND_CPU"))
    monkeypatch.setattr(hardware, "usable_gpus", lambda: (Gpu("NVIDIA L4", "550", "8.9", "1 MiB"),))
    folders = [*environment._package_folders(), str(Path(runtime.__file__).parents[1])]
    monkeypatch.setattr(environment, "_package_folders", lambda: folders)
    with (
        pytest.raises(ServerError, match=r"'tiny' did not load: model\.plan: CUDA: .*driver"),
        serve(repository, grpc_port=0, http_port=None, metrics_port=None, direct=True),
    ):
        pass
