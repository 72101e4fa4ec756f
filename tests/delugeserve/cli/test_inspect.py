"""``delugeserve inspect``: what it prints about each kind of file and folder."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from delugeserve.artifacts.checkpoints import CheckpointHeader
from delugeserve.errors import CheckpointError, InvalidReferenceError, UsageError
from delugeserve.networks.flops import count
from delugeserve.zoo import CIFAR10, find_model

SPEC = find_model("delugenet38")
TENSORRT_PLAN = b"ftrt" + bytes(20) + bytes([10, 13, 3, 9])


@pytest.fixture
def repository(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "model_repository")


@pytest.fixture
def inspect(run):
    """What ``inspect --json`` prints."""

    def inspect(*arguments):
        status, out, err = run("inspect", *arguments, "--json")
        assert status == 0, err
        return json.loads(out)

    return inspect


@pytest.fixture
def facts(run):
    """What ``inspect`` prints: the lines by their first word or words."""

    def facts(*arguments):
        status, out, err = run("inspect", *arguments)
        assert status == 0, err
        lines = [line.split("  ", 1) for line in out.splitlines()[1:] if "  " in line]
        return {name: fact.strip() for name, fact in lines}

    return facts


def test_the_shipped_checkpoint(inspect):
    found = inspect("delugenet38")
    assert found["kind"] == "weights"
    assert found["ours"] is True
    assert found["bytes"] == SPEC.weights.stat().st_size
    assert found["model"]["name"] == "delugenet38"
    assert found["model"]["task"]["name"] == "cifar10"
    assert found["model"]["task"]["class_names"] == list(CIFAR10.class_names)
    assert found["parameters"] == count(SPEC).params
    assert found["recipe"]["seed"] == 0
    assert len(found["data"]["train_fingerprint"]) == 64
    assert found["metrics"]["top1_error"] == 10.34
    assert "torch" in found["environment"]
    header = int.from_bytes(SPEC.weights.read_bytes()[:8], "little")
    assert sum(found["tensor_bytes"].values()) == found["bytes"] - 8 - header


def test_a_run_folder_is_its_checkpoint(inspect, tmp_path):
    shutil.copy(SPEC.weights, tmp_path)
    (tmp_path / "last.ckpt").touch()
    found = inspect(tmp_path)
    assert (found["kind"], found["model"]["name"]) == ("checkpoint", "delugenet38")


def test_metrics_are_printed_with_two_digits(facts, tmp_path):
    path = tmp_path / "x.safetensors"
    initial = {"recipe": {"name": "first", "epochs": 3}, "metrics": {"top1_error": 100 / 3}}
    header = CheckpointHeader(
        SPEC,
        recipe={"name": "second", "learning_rate": 0.1 + 0.2, "initial": initial},
        metrics={"num_images": 4, "top1_error": 11.129999999999999, "top5_error": None},
    )
    save_file({"weight": np.zeros(3, np.float32)}, path, header.to_metadata())
    found = facts(path)
    assert found["metrics"] == "top-1 error 11.13 % on 4 test images"
    assert found["recipe"] == "second, learning rate 0.3"
    assert found["started from"].startswith("first, 3 epochs, top-1 error 33.33 %")


def test_a_safetensors_file_of_another_program(facts, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": np.zeros((3, 5), np.float16)}, path, {"format": "pt"})
    assert facts(path)["tensors"] == "1 float16 (30 bytes)"


def test_class_names_that_were_not_utf8(facts, inspect, tmp_path):
    path = tmp_path / "x.safetensors"
    header = CheckpointHeader(SPEC.with_classes(("caf\udce9", *CIFAR10.class_names[1:])))
    save_file({"weight": np.zeros(3, np.float32)}, path, header.to_metadata())
    assert "caf?" in facts(path)["task"]
    assert inspect(path)["model"]["task"]["class_names"][0] == "caf?"


def test_a_graph(inspect, facts, exported):
    path = exported / "tiny" / "1" / "model.onnx"
    assert inspect(path)["kind"] == "onnx"
    found = facts(path)
    assert found["input"] == "image uint8 [N, 32, 32, 3]"
    assert "in float32; not quantised" in found["precision"]


def test_a_plan_without_a_manifest(inspect, facts, tmp_path):
    path = tmp_path / "model.plan"
    path.write_bytes(TENSORRT_PLAN)
    assert facts(path)["built by"] == "TensorRT 10.13.3.9"
    assert inspect(path)["manifest"] is None


ENGINE = {
    "runtime": "tensorrt",
    "version": "10.13.3.9",
    "compute_capabilities": ["8.9"],
    "minimum_compute_capability": None,
    "built_on": "NVIDIA L4",
    "profile": {"image": {"min": [1, 8, 8, 3], "opt": [4, 8, 8, 3], "max": [16, 8, 8, 3]}},
    "precisions": {"int8": 12, "fp16": 3},
    "precisions_of": "engine",
}


@pytest.mark.parametrize("inspected", ["model.plan", ""])
def test_where_a_plan_runs(inspect, facts, repository, inspected):
    version = repository / "tiny" / "1"
    (version / "model.plan").write_bytes(TENSORRT_PLAN)
    assert "plan for" not in facts(version / inspected)
    manifest = json.loads((version / "manifest.json").read_text()) | {"engine": ENGINE}
    (version / "manifest.json").write_text(json.dumps(manifest))
    assert inspect(version / inspected)["manifest"]["engine"] == ENGINE
    found = facts(version / inspected)
    assert found["plan for"] == "GPUs of compute capability 8.9; built on NVIDIA L4"
    assert found["loaded by"] == "tensorrt 10.13.3.9 only"
    assert found["profile"] == "image from [1, 8, 8, 3] to [16, 8, 8, 3], best at [4, 8, 8, 3]"
    assert found["precision"] == "matrix products of the engine: 12 in int8 and 3 in fp16"
    portable = {"minimum_compute_capability": "8.0", "built_on": None}
    (version / "manifest.json").write_text(json.dumps(manifest | {"engine": ENGINE | portable}))
    assert "8.0 or later" in facts(version / inspected)["plan for"]


def test_a_version(inspect, facts, repository):
    found = inspect(repository / "tiny")
    assert found["kind"] == "version"
    assert (found["model"], found["number"], found["served"]) == ("tiny", "1", True)
    assert found["labels"] == list(CIFAR10.class_names)
    assert found["manifest"]["verification"]["status"] == "passed"
    config = found["config"]
    assert (config["max_batch_size"], config["instances"]) == (8, 1)
    assert config["warmup_batches"] == [1, 8]
    assert config["dynamic_batching"] is True
    assert "warm-up of 1 and 8" in facts(repository / "tiny" / "1")["served with"]


def test_a_version_with_a_missing_file_gives_the_export_command(run, repository):
    (repository / "tiny" / "1" / "model.onnx").unlink()
    status, out, err = run("inspect", repository / "tiny" / "1")
    assert status == 0
    assert "missing" in out
    assert "delugeserve export --checkpoint tiny.safetensors --backend onnxruntime" in err


def test_a_repository(inspect, run, repository):
    (repository / "broken").mkdir()
    (repository / "broken" / "config.pbtxt").write_text("max_batch_size: many")
    assert [model["name"] for model in inspect(repository)["models"]] == ["broken", "tiny"]
    status, out, err = run("inspect", repository)
    assert status == 0
    assert out.splitlines()[-1].split()[:4] == ["tiny", "onnxruntime", "fp32", "trained"]
    assert err.startswith("broken: ")


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx", ".plan"])
def test_garbage_is_a_usage_error(error, tmp_path, suffix):
    path = tmp_path / f"garbage{suffix}"
    path.write_bytes(b"\xff" * 64)
    found = error("inspect", path)
    assert isinstance(found, UsageError)
    assert str(path) in found.problem


def test_nothing_that_can_be_inspected(error, tmp_path):
    (tmp_path / "notes.txt").touch()
    for text in (tmp_path / "notes.txt", tmp_path, "localhost:8001", "delugnet38"):
        found = error("inspect", text)
        assert isinstance(found, InvalidReferenceError)
        assert found.text == str(text)
    assert isinstance(error("inspect", "delugenet146"), CheckpointError)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from delugeserve import cli
for path in sys.argv[1:]:
    sys.argv = ["delugeserve", "inspect", path, "--json"]
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, path
"""


@pytest.mark.slow
def test_nothing_needs_torch(exported):
    paths = [SPEC.weights, exported / "tiny" / "1" / "model.onnx", exported / "tiny", exported]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *paths], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
