"""Our Python-based backends next to a server's native ones."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

from delugeserve.artifacts.model_config import InstanceGroup, classifier_config
from delugeserve.artifacts.repository import find_models
from delugeserve.errors import MissingDeviceError, MissingExtraError, ServerError
from delugeserve.runtimes import BACKENDS
from delugeserve.runtimes.base import Backend
from delugeserve.serving.triton.own_backends import find_implementation, uses_own_backend
from delugeserve.system import hardware


@pytest.fixture
def add_native(installation):
    """Give the server a native backend."""

    def add(name):
        folder = installation.backends / name
        folder.mkdir()
        (folder / f"libtriton_{name}.so").touch()
        return folder

    return add


@pytest.fixture
def exported(tmp_path):
    """A model with the configuration that the exporter writes for a backend."""

    def export(name):
        record = BACKENDS[name]
        folder = tmp_path / "repository" / "tiny"
        (folder / "1").mkdir(parents=True)
        config = classifier_config(
            name="tiny",
            backend=name,
            artefact="model.file",
            max_batch_size=8,
            image_size=32,
            num_classes=10,
            instance_group=InstanceGroup(record.instance_count, record.instance_kind),
            parameters=record.triton_parameters("fp32"),
            runtime=record.triton_runtime,
        )
        (folder / "config.pbtxt").write_text(config.serving(1).to_text())
        (model,) = find_models(folder.parent)
        return model

    return export


@pytest.mark.parametrize(
    ("backend", "next_to_native"),
    [
        ("onnxruntime", "native"),
        ("openvino", "python"),
        ("tensorrt", "native"),
        ("tensorrt_rtx", "native"),  # NVIDIA has none today
    ],
)
def test_what_triton_chooses_for_each_artefact(exported, tmp_path, backend, next_to_native):
    """Triton takes the native library first, unless config.pbtxt names the Python file."""
    model = exported(backend)
    assert model.backend == backend
    folder = tmp_path / "backends" / backend
    folder.mkdir(parents=True)
    assert find_implementation(model, folder) is None
    (folder / "batching.py").touch()
    assert not uses_own_backend(model, folder.parent)
    (folder / "model.py").touch()
    assert find_implementation(model, folder) == "python"
    assert uses_own_backend(model, folder.parent)
    # Our files next to a native library do not mean that they are used.
    (folder / f"libtriton_{backend}.so").touch()
    assert find_implementation(model, folder) == next_to_native
    assert uses_own_backend(model, folder.parent) is (next_to_native == "python")
    (folder / "model.py").unlink()
    assert (find_implementation(model, folder) == "native") is (next_to_native == "native")


def test_configuration_for_openvino(exported):
    config = (exported("openvino").folder / "config.pbtxt").read_text()
    assert 'runtime: "model.py"' in config
    assert "KIND_CPU" in config
    # The native backend pads every batch to the largest, and fails to load with our warm-up.
    assert "ENABLE_BATCH_PADDING" not in config


def test_configuration_for_onnxruntime(exported):
    config = (exported("onnxruntime").folder / "config.pbtxt").read_text()
    assert "runtime:" not in config
    # Without a kind, the native backend would take a GPU, on which nothing was verified.
    assert "KIND_CPU" in config


@pytest.mark.usefixtures("gpu")
def test_backends_of_plans_come_with_the_engine(prepare, model, monkeypatch):
    monkeypatch.setattr(Backend, "is_installed", lambda self: True)
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


def test_a_native_backend_takes_precedence(prepare, add_native, model):
    native = add_native("onnxruntime")
    launch = prepare()
    assert (launch.folder.backends / "onnxruntime").resolve() == native
    assert not launch.cpu_only
    assert prepare(model("openvino")).cpu_only


def test_ours_replaces_a_native_one_that_config_pbtxt_rules_out(prepare, add_native, exported):
    native = add_native("openvino")
    launch = prepare(exported("openvino"))
    assert launch.cpu_only
    folder = launch.folder.backends / "openvino"
    files = ["batching.py", "model.py", "openvino_engine.py"]
    assert sorted(path.name for path in folder.iterdir()) == files
    assert [path.name for path in native.iterdir()] == ["libtriton_openvino.so"]


def test_one_folder_has_both_implementations_if_models_use_both(
    prepare, add_native, exported, model
):
    add_native("openvino")
    launch = prepare(exported("openvino"), dataclasses.replace(model("openvino"), name="other"))
    assert not launch.cpu_only
    folder = launch.folder.backends / "openvino"
    assert not folder.is_symlink()
    assert not (folder / "libtriton_openvino.so").is_symlink()  # Triton refuses such links
    assert (folder / "model.py").is_file()


def test_a_backend_that_the_server_does_not_have(prepare, model):
    with pytest.raises(ServerError, match="'pytorch'") as caught:
        prepare(model("pytorch"))
    assert "onnxruntime, openvino" in caught.value.problem
    assert list(caught.value.reasons) == ["tiny"]
    # Nobody knows how to export it: it has no manifest.
    assert "--tritonserver" in caught.value.remedy


def test_a_configuration_without_a_backend(prepare, model):
    with pytest.raises(ServerError, match="'tiny'") as caught:
        prepare(model(""))
    assert "config.pbtxt" in caught.value.remedy


def test_ours_needs_the_python_backend(prepare, installation, add_native, exported):
    add_native("openvino")
    shutil.rmtree(installation.backends / "python")
    with pytest.raises(ServerError, match="'openvino'"):
        prepare(exported("openvino"))


def test_a_runtime_that_is_not_installed(prepare, monkeypatch):
    monkeypatch.setattr(Backend, "is_installed", lambda self: False)
    with pytest.raises(MissingExtraError) as caught:
        prepare()
    assert (caught.value.module, caught.value.extra) == ("onnxruntime", "server")


@pytest.mark.usefixtures("gpu")
def test_the_runtime_of_a_plan_has_an_extra(prepare, model, monkeypatch):
    monkeypatch.setattr(Backend, "is_installed", lambda self: False)
    with pytest.raises(MissingExtraError) as caught:
        prepare(model("tensorrt_rtx"))
    assert (caught.value.module, caught.value.extra) == ("tensorrt_rtx", "tensorrt-rtx")
