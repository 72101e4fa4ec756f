"""Which GPUs CUDA may use. How nvidia-smi fails is tested with doctor."""

from __future__ import annotations

import pytest

from delugeserve.system import hardware
from delugeserve.system.hardware import Gpu

L4 = Gpu("NVIDIA L4", "550.54", "8.9", "23034 MiB", 0)
T4 = Gpu("NVIDIA T4", "550.54", "7.5", "15360 MiB", 1)
A100 = Gpu("NVIDIA A100", "550.54", "8.0", "40960 MiB", 2)
SMI = """
cat <<'END'
NVIDIA L4, 550.54, 8.9, 23034 MiB, 0
NVIDIA T4, 550.54, 7.5, 15360 MiB, 1
NVIDIA A100, 550.54, 8.0, 40960 MiB, 2
END
"""


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


@pytest.mark.parametrize(
    ("visible", "usable"),
    [
        (None, (L4, T4, A100)),
        ("", ()),
        ("-1", ()),
        ("1", (T4,)),
        ("2, 0", (A100, L4)),
        ("0,7,1", (L4,)),
        ("0,-1,1", (L4,)),
        ("1,1", ()),
        ("all", ()),
        ("GPU-5a2c8a3d-0b1c", (L4, T4, A100)),  # not looked up
        ("MIG-8f3e-2", (L4, T4, A100)),
    ],
)
def test_usable_gpus_are_those_that_cuda_sees(smi, monkeypatch, visible, usable):
    smi(SMI)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert hardware.usable_gpus() == usable


@pytest.mark.parametrize(
    ("capabilities", "minimum", "suitable"),
    [
        (("8.6", "8.9"), None, (L4,)),
        ((), None, ()),
        ((), "8.0", (L4, A100)),
        ((), "10.0", ()),
    ],
)
def test_compute_capabilities(capabilities, minimum, suitable):
    gpus = (L4, T4, A100)
    assert tuple(gpu for gpu in gpus if gpu.is_among(capabilities, minimum)) == suitable


def test_cuda_numbers_gpus_as_nvidia_smi_does_unless_configured():
    environment = {}
    hardware.order_gpus(environment)
    assert environment == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    environment["CUDA_DEVICE_ORDER"] = "FASTEST_FIRST"
    hardware.order_gpus(environment)
    assert environment == {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}


def test_a_broken_driver_has_no_usable_gpu(smi):
    smi("echo 'No devices were found'; exit 6")
    assert hardware.usable_gpus() == ()
