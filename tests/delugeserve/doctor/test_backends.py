"""Checks of the runtimes."""

import importlib.metadata

import pytest

from delugeserve.doctor import backends
from delugeserve.doctor.backends import check_backend, check_backends, import_runtime
from delugeserve.runtimes import BACKENDS
from delugeserve.runtimes.base import Backend
from delugeserve.system import hardware


def test_backends_that_are_installed():
    found = {finding.subject: finding for finding in check_backends()}
    assert found.keys() == BACKENDS.keys()
    assert found["openvino"].status == "ok"
    best = BACKENDS["openvino"].best_precision()
    assert f"{best} is the fastest here" in found["openvino"].text


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_without_a_gpu_its_runtimes_need_not_be_installed(monkeypatch, name):
    monkeypatch.setattr(hardware, "usable_gpus", tuple)
    finding = check_backend(BACKENDS[name], None)
    assert (finding.status, finding.remedy) == ("absent", None)
    l4 = hardware.Gpu("NVIDIA L4", "550.54", "8.9", "23034 MiB")
    monkeypatch.setattr(hardware, "usable_gpus", lambda: (l4,))
    assert BACKENDS[name].extra in check_backend(BACKENDS[name], None).remedy


def test_a_runtime_for_a_gpu(monkeypatch):
    def found(name):
        finding = check_backend(BACKENDS[name], backends.Runtime("10.13.3"))
        return finding.status, finding.text

    monkeypatch.setattr(hardware, "usable_gpus", tuple)
    status, text = found("tensorrt")
    assert status == "absent"
    assert "an NVIDIA GPU" in text
    status, text = found("tensorrt_rtx")
    assert status == "ok"
    assert "running them needs an NVIDIA GPU" in text
    l4 = hardware.Gpu("NVIDIA L4", "550.54", "8.9", "23034 MiB")
    monkeypatch.setattr(hardware, "usable_gpus", lambda: (l4,))
    monkeypatch.setattr(Backend, "missing_bindings", lambda self: self.bindings)
    status, text = found("tensorrt")
    assert status == "problem"
    assert "cuda.bindings" in text
    monkeypatch.setattr(Backend, "missing_bindings", lambda self: ())
    for name in ("tensorrt", "tensorrt_rtx"):
        status, text = found(name)
        assert status == "ok"
        assert "fp16 is the fastest here" in text


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('libtbb.so.12: cannot open')", "ImportError: libtbb.so.12: cannot"),
        ("import os; os.abort()", "SIGABRT"),
        ("import time; time.sleep(60)", "did not finish"),
    ],
    ids=["raises", "crashes", "hangs"],
)
def test_a_runtime_that_is_installed_and_broken(monkeypatch, tmp_path, source, reason):
    (tmp_path / "openvino.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    if "sleep" in source:
        monkeypatch.setattr(backends, "_TIMEOUT", 1.0)
    runtime = import_runtime("openvino")
    assert runtime.version is None
    assert reason in runtime.reason
    finding = check_backend(BACKENDS["openvino"], runtime)
    assert finding.status == "problem"
    installed = importlib.metadata.version("openvino")
    assert f"--force-reinstall --no-deps openvino=={installed}" in finding.remedy
