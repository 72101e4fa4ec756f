"""Plans are refused before a server is started, with the way to one that can load them."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from delugeserve.artifacts.repository import StoredModel
from delugeserve.errors import MissingDeviceError, PlanError
from delugeserve.runtimes import plans
from delugeserve.system import hardware
from delugeserve.system.hardware import Gpu

TURING = Gpu("NVIDIA T4", "550.54", "7.5", "23034 MiB", 2)
ADA = Gpu("NVIDIA L4", "550.54", "8.9", "23034 MiB", 3)


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_manifest, make_plan_details):
    monkeypatch.setattr(hardware, "usable_gpus", lambda: (ADA,))
    monkeypatch.delenv("TRT_VERSION", raising=False)

    def run(backend="tensorrt", installed=None, native=False, manifest=True, gpus=(), **changes):
        versions = {name: installed for name in plans.DISTRIBUTIONS.get(backend, ()) if installed}

        def version(name):
            if name not in versions:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(importlib.metadata, "version", version)
        engine = make_plan_details(**changes)
        (tmp_path / "net" / "3").mkdir(parents=True, exist_ok=True)
        if manifest:
            written = make_manifest(backend=backend, precision="fp16", engine=engine)
            written.write(tmp_path / "net" / "3")
        model = StoredModel("net", tmp_path / "net", backend, True, 3, gpus)
        plans.require_loadable(model, native=native)

    return run


def test_without_a_gpu_it_says_so(check, monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "usable_gpus", tuple)
    with pytest.raises(
        MissingDeviceError, match=r"'net' is a TensorRT-RTX plan.*has none"
    ) as caught:
        check("tensorrt_rtx")
    assert caught.value.remedy.endswith(
        "delugeserve export --checkpoint net.safetensors --backend onnxruntime "
        f"--max-batch-size 8 --repository {tmp_path}"
    )
    check("openvino")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"compute_capabilities": (), "minimum_compute_capability": "8.0"},
        {"compute_capabilities": ("7.5", "8.9")},
    ],
)
def test_a_gpu_that_fits(check, changes):
    check(installed="10.13.3.9", **changes)


def test_every_gpu_that_the_server_would_load_it_on_must_fit(check, monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "usable_gpus", lambda: (TURING, ADA))
    check(compute_capabilities=("7.5", "8.9"))
    with pytest.raises(PlanError, match=r"8\.9, and .* load it on NVIDIA T4 .7\.5.\.") as caught:
        check()
    assert "CUDA_VISIBLE_DEVICES=3 delugeserve serve" in caught.value.remedy
    check(gpus=(1,))
    with pytest.raises(PlanError, match=r"load it on NVIDIA T4 .7\.5.\.") as caught:
        check(gpus=(0, 1))
    assert caught.value.remedy == f"Write gpus: [ 1 ] in {tmp_path / 'net' / 'config.pbtxt'}."


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"compute_capabilities": ("8.0", "9.0")}, "8.0 or 9.0"),
        ({"compute_capabilities": (), "minimum_compute_capability": "10.0"}, "10.0 or later"),
    ],
)
def test_other_gpus_are_named_beside_those_it_needs(check, monkeypatch, tmp_path, changes, wanted):
    monkeypatch.setattr(hardware, "usable_gpus", lambda: (TURING, ADA))
    with pytest.raises(
        PlanError, match=f"capability {wanted}, and .*T4.*, NVIDIA L4 .8.9."
    ) as caught:
        check(**changes)
    assert caught.value.remedy.endswith(
        "delugeserve export --checkpoint net.safetensors --backend tensorrt --precision fp16 "
        f"--max-batch-size 8 --repository {tmp_path}"
    )


@pytest.mark.parametrize(
    ("installed", "compatible", "loads"),
    [
        ("10.13.3.9", False, True),
        ("10.13.3.9.post1", False, True),
        ("10.14.1.48", False, False),
        ("10.14.1.48", True, True),
        ("10.9.0.34", True, False),
        (None, False, True),
    ],
)
def test_another_version_loads_it_only_if_it_may(check, installed, compatible, loads):
    if loads:
        check(installed=installed, version_compatible=compatible)
        return
    with pytest.raises(
        PlanError, match=f"built by TensorRT 10.13.3.9.*has TensorRT {installed}"
    ) as e:
        check(installed=installed, version_compatible=compatible)
    assert "pip install 'tensorrt==10.13.3.9'" in e.value.remedy
    assert "nvcr.io/nvidia/tritonserver:26.02-trtllm-python-py3 has 10.13.3.9" in e.value.remedy


def test_a_version_in_no_image_we_know_is_looked_up(check):
    with pytest.raises(
        PlanError, match=r"see https://docs.nvidia.com/.*for an image that has 11.0"
    ):
        check(installed="10.14.1.48", version="11.0.0.1")


def test_a_native_backend_has_the_version_that_its_container_states(check, monkeypatch):
    check(installed="10.9.0.34", native=True)
    monkeypatch.setenv("TRT_VERSION", "10.9.0.34+cuda12.8")
    with pytest.raises(PlanError, match=r"has TensorRT 10.9.0.34"):
        check(native=True)


def test_a_native_backend_does_not_put_weights_back(check):
    check(options={"strip_weights": True})
    with pytest.raises(PlanError, match="a plan without its weights"):
        check(options={"strip_weights": True}, native=True)


def test_rtx_is_told_by_its_own_package(check):
    with pytest.raises(PlanError, match=r"has TensorRT-RTX 1.8") as caught:
        check("tensorrt_rtx", installed="1.8.0.1", version="1.7.1.116")
    assert "pip install 'tensorrt-rtx==1.7.1.116'" in caught.value.remedy
    assert "nvcr.io" not in caught.value.remedy


def test_a_plan_of_someone_else_is_left_to_the_server(check):
    check(manifest=False)


def test_a_short_version_in_the_table_stands_for_all_that_begin_so():
    assert plans.containers_with("10.7.0.23")[-1].endswith(":24.12-trtllm-python-py3")
    assert plans.containers_with("10.7.1") == []
