"""Our backends beside a server's native ones."""

from __future__ import annotations

import pytest

from delugeserve.errors import MissingDeviceError, MissingExtraError, ServerError
from delugeserve.serving import own_backends
from delugeserve.system import hardware


@pytest.mark.usefixtures("gpu")
def test_backends_of_plans_come_with_the_engine(prepare, model, monkeypatch):
    monkeypatch.setattr(own_backends, "find_spec", lambda name: object())
    launch = prepare(model("tensorrt_rtx"))
    assert not launch.cpu_only
    for name in ("tensorrt", "tensorrt_rtx"):
        assert sorted(path.name for path in (launch.folder.backends / name).iterdir()) == [
            "batching.py",
            "model.py",
            "tensorrt_engine.py",
        ]


def test_a_plan_without_a_gpu_is_refused(prepare, model, monkeypatch):
    monkeypatch.setattr(hardware, "usable_gpus", tuple)
    with pytest.raises(MissingDeviceError, match="'tiny'"):
        prepare(model("tensorrt"))


def test_a_native_backend_takes_precedence(prepare, installation, model):
    (installation.backends / "onnxruntime").mkdir()
    (installation.backends / "onnxruntime" / "libtriton_onnxruntime.so").touch()
    launch = prepare()
    backend = launch.folder.backends / "onnxruntime"
    assert backend.resolve() == installation.backends / "onnxruntime"
    assert not launch.cpu_only
    assert prepare(model("openvino")).cpu_only


def test_a_backend_that_the_server_does_not_have(prepare, model):
    with pytest.raises(ServerError, match="'pytorch'") as caught:
        prepare(model("pytorch"))
    assert "onnxruntime, openvino" in caught.value.problem
    assert "--backend onnxruntime" in caught.value.remedy


def test_a_runtime_that_is_not_installed(prepare, monkeypatch):
    monkeypatch.setattr(own_backends, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        prepare()
    assert (caught.value.module, caught.value.extra) == ("onnxruntime", "server")


@pytest.mark.usefixtures("gpu")
def test_the_runtime_of_a_plan_has_an_extra(prepare, model, monkeypatch):
    monkeypatch.setattr(own_backends, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        prepare(model("tensorrt_rtx"))
    assert (caught.value.module, caught.value.extra) == ("tensorrt_rtx", "tensorrt-rtx")
