"""What the tests of the package share."""

import sys
from pathlib import Path

import pytest

from delugeserve import cli


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Path:
    """A repository with one small trained model, ``tiny``: version 1, ONNX Runtime, batch 8."""
    import torch

    from delugeserve.checkpoint import Checkpoint, save_checkpoint
    from delugeserve.networks.build import build_network
    from delugeserve.zoo import CIFAR10, ModelSpec
    from delugeserve_export.pipeline import export
    from delugeserve_export.request import Request

    spec = ModelSpec("tiny", "cifar", (4, 6), (2, 2), CIFAR10)
    network = build_network(spec, seed=0)
    with torch.no_grad():  # signals of a trained network's size
        for _ in range(5):
            network(torch.randn(32, 3, 32, 32))
        network.head.linear.weight.mul_(10)
    folder = tmp_path_factory.mktemp("exported")
    checkpoint = folder / "tiny.safetensors"
    save_checkpoint(Checkpoint(spec, CIFAR10.class_names, network.state_dict()), checkpoint)
    repository = folder / "model_repository"
    export(Request(spec, checkpoint, repository, "onnxruntime", "fp32", 8))
    return repository


@pytest.fixture
def run(monkeypatch, capsys):
    """The command line in this process: arguments to exit status, standard output and error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["delugeserve", *map(str, arguments)])
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
