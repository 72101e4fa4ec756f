"""Plans that a server could not load are refused before it starts, with who can load them."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from delugeserve.artifacts.repository import StoredModel
from delugeserve.errors import MissingDeviceError, PlanError
from delugeserve.runtimes import BACKENDS
from delugeserve.system import hardware
from delugeserve.system.hardware import Gpu

TURING = Gpu("NVIDIA T4", "550.54", "7.5", "23034 MiB", 2)
ADA = Gpu("NVIDIA L4", "550.54", "8.9", "23034 MiB", 3)


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_manifest, make_plan_details):
    """Check a plan for compute capability 8.9, built by TensorRT 10.13.3.9, on an L4."""
    monkeypatch.setattr(hardware, "usable_gpus", lambda: (ADA,))
    monkeypatch.delenv("TRT_VERSION", raising=False)

    def run(backend="tensorrt", installed=None, native=False, manifest=True, **changes):
        record = BACKENDS[backend]
        versions = {name: installed for name in record.distributions if installed}

        def version(name):
            if name not in versions:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(importlib.metadata, "version", version)
        (tmp_path / "net" / "3").mkdir(parents=True, exist_ok=True)
        if manifest:
            engine = make_plan_details(**changes)
            written = make_manifest(backend=backend, precision="fp16", engine=engine)
            written.write(tmp_path / "net" / "3")
        record.check_loadable(StoredModel("net", tmp_path / "net", backend, True, 3), native=native)

    return run


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt_rtx"])
def test_no_gpu(check, monkeypatch, tmp_path, backend):
    monkeypatch.setattr(hardware, "usable_gpus", tuple)
    with pytest.raises(MissingDeviceError) as caught:
        check(backend)
    assert caught.value.remedy.endswith(
        "delugeserve export --checkpoint net.safetensors --name net --backend onnxruntime "
        f"--max-batch-size 8 --repository {tmp_path}"
    )


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_artefacts_for_a_cpu_need_no_gpu(check, monkeypatch, backend):
    monkeypatch.setattr(hardware, "usable_gpus", tuple)
    check(backend)


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


def test_triton_would_load_it_on_every_gpu_so_each_must_fit(check, monkeypatch):
    monkeypatch.setattr(hardware, "usable_gpus", lambda: (TURING, ADA))
    check(compute_capabilities=("7.5", "8.9"))
    with pytest.raises(PlanError) as caught:
        check()
    assert (caught.value.required, caught.value.found) == ("8.9", "NVIDIA T4 (7.5)")
    assert "CUDA_VISIBLE_DEVICES=3 delugeserve serve" in caught.value.remedy


@pytest.mark.parametrize(
    ("changes", "required"),
    [
        ({"compute_capabilities": ("8.0", "9.0")}, "8.0 or 9.0"),
        ({"compute_capabilities": (), "minimum_compute_capability": "10.0"}, "10.0 or later"),
    ],
)
def test_no_gpu_that_fits(check, monkeypatch, tmp_path, changes, required):
    monkeypatch.setattr(hardware, "usable_gpus", lambda: (TURING, ADA))
    with pytest.raises(PlanError) as caught:
        check(**changes)
    assert caught.value.required == required
    assert caught.value.found == "NVIDIA T4 (7.5), NVIDIA L4 (8.9)"
    assert caught.value.remedy.endswith(
        "delugeserve export --checkpoint net.safetensors --name net --backend tensorrt "
        f"--precision fp16 --max-batch-size 8 --repository {tmp_path}"
    )


@pytest.mark.parametrize("installed", ["10.13.3.9", "10.13.3.9.post1", None])
def test_the_version_that_built_it_or_an_unknown_one(check, installed):
    check(installed=installed)


@pytest.mark.parametrize("installed", ["10.14.1.48", "10.9.0.34"])
def test_another_version(check, installed):
    with pytest.raises(PlanError) as caught:
        check(installed=installed)
    assert (caught.value.required, caught.value.found) == ("10.13.3.9", installed)
    assert "pip install 'tensorrt==10.13.3.9'" in caught.value.remedy
    assert "support-matrix" in caught.value.remedy


def test_a_native_backend_has_the_version_that_its_container_states(check, monkeypatch):
    check(installed="10.9.0.34", native=True)
    monkeypatch.setenv("TRT_VERSION", "10.9.0.34+cuda12.8")
    with pytest.raises(PlanError) as caught:
        check(native=True)
    assert caught.value.found == "10.9.0.34"


def test_rtx_has_its_own_package_and_no_container(check):
    with pytest.raises(PlanError) as caught:
        check("tensorrt_rtx", installed="1.8.0.1", version="1.7.1.116")
    assert "pip install 'tensorrt-rtx==1.7.1.116'" in caught.value.remedy
    assert "container" not in caught.value.remedy


def test_what_another_exporter_wrote_is_left_to_the_server(check):
    check(manifest=False)
