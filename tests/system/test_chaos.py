"""A model process and a server are killed while clients without retries ask: none notices."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="the test model needs the extra 'export'")
pytest.importorskip("starlette", reason="the gateway needs the extra 'server'")
pytest.importorskip("pytriton.constants", reason="there is no tritonserver (nvidia-pytriton)")
pytest.importorskip("tritonclient.grpc")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A small network whose answers differ between pictures."""
    import torch

    from delugeserve.networks.build import build_network
    from delugeserve.networks.checkpoint import Checkpoint, save_checkpoint
    from delugeserve.zoo import CIFAR10, Architecture, ModelSpec

    spec = ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6), (2, 2)), CIFAR10)
    network = build_network(spec, seed=0)
    with torch.no_grad():
        for _ in range(30):
            network(torch.randn(32, 3, 32, 32))
        network.head.linear.weight.mul_(50)  # sure of its classes
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(Checkpoint(spec, network.state_dict()), path)
    return path


def test_killed_processes_and_a_changed_version_cost_no_request(checkpoint, tmp_path):
    from chaos import run_fault
    from chaos_repository import Version, make_repository
    from chaos_server import Server

    repository = tmp_path / "repository"
    versions = (Version(1, "onnxruntime", 16, 0), Version(2, "onnxruntime", 32, 3))
    models = make_repository(repository, [checkpoint], versions)
    chosen = argparse.Namespace(clients=8, pause=0.02, times=1, seconds=0.5, steady=0.0)
    with Server(repository, tmp_path) as server:
        for name in ("kill -9 model process", "kill -9 tritonserver", "promote, rollback"):
            row = run_fault(name, server, models, chosen)
            assert row.all.requests > chosen.clients
            assert (row.all.refused, row.all.failed, row.all.wrong) == (0, 0, 0), row.all.reasons
            assert not sum(harm.faults for harm in row.harms), row.harms
        assert server.stop(60) == 0
    assert not server.leftovers()
