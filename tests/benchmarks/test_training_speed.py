"""The ResNet that training is compared with, and a quick run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lightning", reason="the benchmark needs the extra 'train'")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def training_speed(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import training_speed

    return training_speed


def test_the_resnet_is_that_of_the_field(training_speed):
    """ResNet-20 of He et al. has 0.27M parameters and 41 million multiply-adds."""
    network = training_speed.ResNet(16, 3, 10)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(0.272e6, rel=0.02)
    assert training_speed.resnet_flops(16, 3, 32, 10) == pytest.approx(2 * 41e6, rel=0.02)


@pytest.mark.parametrize("name", ["delugenet38", "wide_delugenet38"])
def test_the_resnet_has_about_the_flops_of_the_network(training_speed, name):
    from delugeserve.networks.flops import count
    from delugeserve.zoo import find_model

    spec = find_model(name)
    assert training_speed.equal_resnet(spec)[2] == pytest.approx(count(spec).flops, rel=0.1)


@pytest.mark.slow
def test_a_quick_run(tmp_path):
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("the fused form needs a C++ compiler")
    report = tmp_path / "report.json"
    command = [sys.executable, BENCHMARKS / "training_speed.py", "--quick", "--json", report]
    done = subprocess.run(
        [*command, "--models", "delugenet38", "--seconds", "0.01"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(report.read_text())["results"]
    names = list(result["samples"])
    assert names[:3] == ["matrix product", "delugenet38, eager", "delugenet38, fused"]
    assert names[3].startswith("ResNet-")
