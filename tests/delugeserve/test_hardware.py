"""What the driver's own program says of the GPUs."""

from __future__ import annotations

import pytest

from delugeserve import hardware
from delugeserve.hardware import Gpu


@pytest.fixture
def smi(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def write(script):
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    return write


gpus = hardware.nvidia_gpus.__wrapped__


def test_every_gpu_is_read(smi):
    smi("echo 'NVIDIA L4, 8.9'; echo 'NVIDIA RTX A2000, 12GB, 8.6'")
    assert gpus() == (Gpu("NVIDIA L4", "8.9"), Gpu("NVIDIA RTX A2000, 12GB", "8.6"))


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_gpus_that_are_hidden_are_none(smi, monkeypatch, hidden):
    smi("echo 'NVIDIA L4, 8.9'")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert gpus() == ()


def test_a_driver_that_fails_has_none(smi):
    smi("echo 'No devices were found'; exit 6")
    assert gpus() == ()
