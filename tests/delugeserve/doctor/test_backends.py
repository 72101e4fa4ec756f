"""Checks of the runtimes."""

import pytest

from delugeserve.doctor import backends
from delugeserve.runtimes import BACKENDS
from delugeserve.system import hardware


def test_backends_that_are_installed():
    found = {finding.subject: finding for finding in backends.examine_backends()}
    assert found.keys() == BACKENDS.keys()
    assert found["openvino"].status == "ok"
    best = BACKENDS["openvino"].best_precision()
    assert f"of which {best} is best here" in found["openvino"].text


def test_a_plan_backend_is_told_by_what_it_can_do_here(monkeypatch):
    def found(name):
        finding = backends._examine(BACKENDS[name], backends.Runtime("10.13.3"))
        return finding.status, finding.text

    monkeypatch.setattr(hardware, "usable_gpus", tuple)
    expected = ("absent", "TensorRT 10.13.3 cannot build or run here: no NVIDIA GPU")
    assert found("tensorrt") == expected
    status, text = found("tensorrt_rtx")
    assert status == "ok"
    assert text.endswith("; builds here, and runs where there is an NVIDIA GPU")
    l4 = hardware.Gpu("NVIDIA L4", "550.54", "8.9", "23034 MiB")
    monkeypatch.setattr(hardware, "usable_gpus", lambda: (l4,))
    monkeypatch.setattr(backends, "_is_installed", lambda module: module != "cuda.bindings")
    expected = ("problem", "TensorRT 10.13.3 builds here, and cannot run without cuda.bindings")
    assert found("tensorrt") == expected
    monkeypatch.setattr(backends, "_is_installed", lambda module: True)
    for name in ("tensorrt", "tensorrt_rtx"):
        status, text = found(name)
        assert (status, text.endswith("of which fp16 is best here")) == ("ok", True)


def test_a_module_in_no_package_is_not_installed():
    assert not backends._is_installed("no_such_package.bindings")
    assert backends._is_installed("importlib.metadata")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('libtbb.so.12: cannot open')", "ImportError: libtbb.so.12: cannot"),
        ("import os; os.abort()", "ends in SIGABRT"),
        ("import time; time.sleep(60)", "does not end within"),
    ],
    ids=["raises", "crashes", "hangs"],
)
def test_a_runtime_that_is_installed_and_broken(monkeypatch, tmp_path, source, reason):
    (tmp_path / "openvino.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    if "sleep" in source:
        monkeypatch.setattr(backends, "_TIMEOUT", 1.0)
    runtime = backends.import_runtime("openvino")
    assert runtime.version is None
    assert reason in runtime.reason
    finding = backends._examine(BACKENDS["openvino"], runtime)
    assert finding.status == "problem"
    assert "--force-reinstall 'delugeserve[export]'" in finding.remedy
