"""Which GPUs CUDA may use; what the driver's program says of them is tested with doctor."""

from __future__ import annotations

import pytest

from delugeserve import hardware
from delugeserve.hardware import Gpu

L4 = Gpu("NVIDIA L4", "550.54", "8.9", "23034 MiB")


@pytest.fixture
def smi(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    hardware.find_gpus.cache_clear()

    def write(script):
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    yield write
    hardware.find_gpus.cache_clear()


def test_a_gpu_is_usable_unless_it_is_hidden(smi, monkeypatch):
    smi("echo 'NVIDIA L4, 550.54, 8.9, 23034 MiB'")
    assert hardware.usable_gpus() == (L4,)
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert hardware.usable_gpus() == ()


def test_a_broken_driver_has_no_usable_gpu(smi):
    smi("echo 'No devices were found'; exit 6")
    assert hardware.usable_gpus() == ()
