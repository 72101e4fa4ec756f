"""The records of all runtimes, and the choice among them."""

from __future__ import annotations

from importlib.metadata import metadata
from pathlib import Path

import pytest

from delugeserve import runtimes, serving
from delugeserve.artifacts.plans import BUILDERS
from delugeserve.errors import MissingExtraError, UnknownNameError, UsageError
from delugeserve.runtimes import BACKENDS, choose_backend, find_backend
from delugeserve.runtimes.base import Backend, BuildOptions
from delugeserve.system import hardware
from delugeserve.system.hardware import Gpu

SOURCES = Path(serving.__file__).parent / "backends"


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a machine with a GPU or without, and with some runtimes installed."""

    def pretend(capability=None, installed=tuple(BACKENDS), native_bf16=False):
        gpus = (Gpu("NVIDIA X", "550.54", capability, "23034 MiB"),) if capability else ()
        monkeypatch.setattr(hardware, "usable_gpus", lambda: gpus)
        monkeypatch.setattr(hardware, "has_native_bf16", lambda: native_bf16)
        monkeypatch.setattr(Backend, "is_installed", lambda self: self.name in installed)

    return pretend


def test_a_record_for_each_runtime():
    assert list(BACKENDS) == ["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"]


@pytest.mark.parametrize("record", BACKENDS.values(), ids=BACKENDS)
def test_a_record_is_complete(record):
    assert record.title
    assert record.sum_form
    assert record.precisions[0] in record.precisions
    assert record.distributions
    extras = metadata("delugeserve").get_all("Provides-Extra")
    assert {record.extra, record.serving_extra} <= set(extras)
    assert record.instance_kind in ("KIND_CPU", "KIND_GPU")
    assert (SOURCES / record.name / "model.py").is_file()
    assert all(path.is_file() for path in record.support_files)


def test_headers_of_plans_name_the_runtimes():
    assert set(BUILDERS.values()) == {record.title for record in BACKENDS.values() if record.on_gpu}


def test_a_new_runtime_is_one_new_file(tmp_path, monkeypatch):
    (tmp_path / "another.py").write_text(
        "from delugeserve.runtimes.onnxruntime import OnnxRuntime\n"
        "class Another(OnnxRuntime):\n"
        "    name = 'another'\n"
    )
    monkeypatch.setattr(runtimes, "__path__", [*runtimes.__path__, str(tmp_path)])
    assert "another" in {record.name for record in runtimes._records()}


def test_a_backend_has_two_spellings():
    assert find_backend("tensorrt_rtx") is find_backend("tensorrt-rtx") is BACKENDS["tensorrt_rtx"]
    with pytest.raises(UnknownNameError) as caught:
        find_backend("tensorrt-rt")
    assert caught.value.nearest == "tensorrt-rtx"
    assert "auto" in caught.value.known


def test_a_module_in_a_missing_package_is_missing(monkeypatch):
    record = BACKENDS["tensorrt"]
    monkeypatch.setattr(type(record), "bindings", ("no_such_package.bindings", "json.decoder"))
    assert record.missing_bindings() == ("no_such_package.bindings",)


def test_a_backend_by_name_must_be_installed(machine):
    machine(installed=("openvino",))
    with pytest.raises(MissingExtraError) as caught:
        choose_backend("onnxruntime")
    assert (caught.value.module, caught.value.extra) == ("onnxruntime", "export")


@pytest.mark.parametrize(
    ("capability", "installed", "chosen"),
    [
        ("9.0", {"tensorrt", "tensorrt_rtx", "openvino"}, "tensorrt"),
        ("8.9", {"tensorrt_rtx", "openvino"}, "tensorrt_rtx"),
        ("9.0", {"tensorrt_rtx", "openvino"}, "openvino"),  # not a GPU that TensorRT-RTX supports
        ("8.9", {"openvino"}, "openvino"),
    ],
)
def test_auto_takes_a_gpu_where_it_can(machine, capability, installed, chosen):
    machine(capability, installed)
    backend, reason = choose_backend("auto")
    assert backend.name == chosen
    assert ("NVIDIA X" in reason) == (chosen != "openvino")
    assert ("not installed" in reason) == (chosen == "openvino")


@pytest.mark.parametrize(
    ("native_bf16", "installed", "chosen", "not_installed"),
    [
        (True, {"onnxruntime", "openvino"}, "openvino", False),
        (True, {"onnxruntime"}, "onnxruntime", True),
        (False, {"onnxruntime", "openvino"}, "onnxruntime", False),
        (False, {"openvino"}, "openvino", False),
    ],
)
def test_auto_on_a_cpu(machine, native_bf16, installed, chosen, not_installed):
    machine(installed=installed, native_bf16=native_bf16)
    backend, reason = choose_backend("auto")
    assert backend.name == chosen
    assert ("not installed" in reason) == not_installed


@pytest.mark.parametrize(
    ("native_bf16", "precision", "chosen"),
    [
        (True, "bf16", "openvino"),
        (True, "int8", "openvino"),
        (True, "fp32", "openvino"),
        (False, "bf16", "openvino"),
        (False, "int8", "onnxruntime"),
        (False, "fp16", "onnxruntime"),  # none has it: the caller says which precisions there are
    ],
)
def test_auto_in_a_precision(machine, native_bf16, precision, chosen):
    machine(native_bf16=native_bf16)
    backend, _ = choose_backend("auto", precision)
    assert backend.name == chosen


def test_auto_without_any_runtime(machine):
    machine(installed=())
    with pytest.raises(MissingExtraError) as caught:
        choose_backend("auto")
    assert caught.value.extra == "export"


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_option_without_effect_is_refused(backend):
    options = BuildOptions(max_batch_size=8, optimal_batch_size=4)
    with pytest.raises(UsageError, match="--optimal-batch-size"):
        BACKENDS[backend].check_options(options)
    BACKENDS["tensorrt_rtx"].check_options(options)
