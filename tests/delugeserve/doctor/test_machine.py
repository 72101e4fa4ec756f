"""Checks of the machine."""

import os
import sys

import pytest

from delugeserve.doctor import machine
from delugeserve.system import hardware


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Put a program of that name on the PATH; the real one is where a GPU is."""

    def install(script):
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
        hardware.find_gpus.cache_clear()

    yield install
    hardware.find_gpus.cache_clear()


def test_this_machine():
    found = {finding.subject: finding for finding in machine.check_machine()}
    assert sys.prefix in found["Python"].text
    assert f"{hardware.usable_cores()} usable cores" in found["CPU"].text
    assert ("bf16 is native" in found["CPU features"].text) == hardware.has_native_bf16()
    assert found["memory"].text.endswith("GiB")


def test_gpus(nvidia_smi, monkeypatch):
    nvidia_smi(
        'echo "NVIDIA L4, 550.54, 8.9, 23034 MiB, 0"; echo "NVIDIA T4, 550.54, 7.5, 15 MiB, 1"'
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    first, second = hardware.find_gpus()
    assert first == hardware.Gpu("NVIDIA L4", "550.54", "8.9", "23034 MiB", 0)
    assert second.compute_capability == "7.5"
    texts = [finding.text for finding in machine.check_machine() if finding.subject == "GPU"]
    assert texts[0] == "NVIDIA L4, 23034 MiB, driver 550.54, compute capability 8.9"
    assert texts[1].endswith("7.5; hidden by CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize("script", ["echo no devices; exit 9", "echo Field is not valid", "exit 1"])
def test_a_driver_that_does_not_work(nvidia_smi, script):
    nvidia_smi(script)
    (found,) = [finding for finding in machine.check_machine() if finding.subject == "GPU"]
    assert found.status == "problem"
    assert found.remedy


@pytest.mark.parametrize(
    ("excluded", "status"), [("", "warning"), ("gpu", "warning"), ("localhost,127.0.0.0/8", "ok")]
)
def test_a_proxy_in_the_environment(monkeypatch, excluded, status):
    for name in ("grpc_proxy", "https_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy.example:3128")
    monkeypatch.setenv("no_proxy", excluded)
    (found,) = [one for one in machine.check_machine() if one.subject == "proxy"]
    assert found.status == status
    assert "http://proxy.example:3128 (http_proxy)" in found.text
    assert "secret" not in found.text
    if status == "warning":
        value = f"{excluded},localhost,127.0.0.1".strip(",")
        assert found.remedy == f"Run: export no_proxy={value}"
        monkeypatch.setenv("no_proxy", value)
        assert [one.status for one in machine.check_machine() if one.subject == "proxy"] == ["ok"]


def test_a_cpu_without_avx2(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset({"sse4_2"}))
    (found,) = [one for one in machine.check_machine() if one.subject == "CPU features"]
    assert found.status == "warning"
    assert "AVX2" in found.remedy
