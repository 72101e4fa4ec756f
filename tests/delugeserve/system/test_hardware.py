"""Which GPUs CUDA may use; what the driver's program says of them is tested with doctor."""

from __future__ import annotations

import pytest

from delugeserve.system import hardware
from delugeserve.system.hardware import Gpu

L4 = Gpu("NVIDIA L4", "550.54", "8.9", "23034 MiB", 0, "GPU-5a2c8a3d-0b1c")
T4 = Gpu("NVIDIA T4", "550.54", "7.5", "15360 MiB", 1, "GPU-5a77e210-9d4e")
A100 = Gpu("NVIDIA A100", "550.54", "8.0", "40960 MiB", 2, "GPU-c3d401aa-77f0")
# What nvidia-smi prints of them, the last of which is divided, first in full and then as a list.
SMI = """
if [ "$1" = --list-gpus ]; then cat <<'END'
GPU 0: NVIDIA L4 (UUID: GPU-5a2c8a3d-0b1c)
GPU 1: NVIDIA T4 (UUID: GPU-5a77e210-9d4e)
GPU 2: NVIDIA A100 (UUID: GPU-c3d401aa-77f0)
  MIG 3g.20gb     Device  0: (UUID: MIG-8f3e-1)
  MIG 3g.20gb     Device  1: (UUID: MIG-8f3e-2)
END
else cat <<'END'
NVIDIA L4, 550.54, 8.9, 23034 MiB, 0, GPU-5a2c8a3d-0b1c
NVIDIA T4, 550.54, 7.5, 15360 MiB, 1, GPU-5a77e210-9d4e
NVIDIA A100, 550.54, 8.0, 40960 MiB, 2, GPU-c3d401aa-77f0
END
fi
"""


@pytest.fixture
def smi(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    hardware.find_gpus.cache_clear()
    hardware._mig_parts.cache_clear()

    def write(script):
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    yield write
    hardware.find_gpus.cache_clear()
    hardware._mig_parts.cache_clear()


def test_a_gpu_is_usable_unless_it_is_hidden(smi, monkeypatch):
    smi(SMI)
    assert hardware.usable_gpus() == (L4, T4, A100)
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert hardware.usable_gpus() == ()


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        ("1", (T4,)),
        ("2, 0", (A100, L4)),
        ("0,7,1", (L4,)),
        ("0,-1,1", (L4,)),
        ("1,1", ()),
        ("all", ()),
        ("GPU-5a77", (T4,)),
        ("GPU-c3,GPU-5a2c8a3d-0b1c", (A100, L4)),
        ("GPU-5a", ()),  # which of two?
        ("MIG-8f3e-2", (A100,)),
        ("MIG-8f3e-1,MIG-8f3e-2", (A100,)),
        ("MIG-8f3e", (A100,)),
        ("MIG-none", ()),
    ],
)
def test_cuda_sees_what_is_named_in_that_order(smi, monkeypatch, visible, seen):
    smi(SMI)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert hardware.usable_gpus() == seen


def test_cuda_counts_as_nvidia_smi_does_unless_told_otherwise():
    environment = {}
    hardware.order_gpus(environment)
    assert environment == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    environment["CUDA_DEVICE_ORDER"] = "FASTEST_FIRST"
    hardware.order_gpus(environment)
    assert environment == {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}


def test_a_broken_driver_has_no_usable_gpu(smi):
    smi("echo 'No devices were found'; exit 6")
    assert hardware.usable_gpus() == ()
