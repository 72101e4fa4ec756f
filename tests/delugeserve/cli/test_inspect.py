"""``delugeserve inspect``: what it reads out of real artefacts, and what it makes of garbage."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from delugeserve.artifacts.graphs import read_graph
from delugeserve.artifacts.model_config import read_config
from delugeserve.artifacts.plans import read_plan
from delugeserve.artifacts.versions import read_repository, read_version
from delugeserve.errors import CheckpointError, InvalidReferenceError
from delugeserve.networks.flops import count
from delugeserve.zoo import CIFAR10, find_model

SPEC = find_model("delugenet38")

# The first bytes of a plan that TensorRT-RTX 1.7.1.116 built, and of one that trtexec describes.
RTX_PLAN = bytes.fromhex("7674727400000000 0200000000000000 9440040000000000 01070174 76747274")
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
def refusal(run):
    """What ``inspect`` says where it refuses."""

    def refusal(*arguments):
        status, out, err = run("inspect", *arguments)
        assert (status, out) == (2, ""), err
        assert "Traceback" not in err
        return " ".join(err.split())

    return refusal


def test_the_shipped_checkpoint(inspect):
    found = inspect("delugenet38")
    assert found["kind"] == "weights"
    assert found["ours"] is True
    assert found["bytes"] == SPEC.weights.stat().st_size
    assert found["model"]["name"] == "delugenet38"
    assert found["model"]["dataset"]["name"] == "cifar10"
    assert found["class_names"] == list(CIFAR10.class_names)
    assert found["parameters"] == count(SPEC).params
    assert found["recipe"]["seed"] == 0
    assert len(found["data"]["train_fingerprint"]) == 64
    assert found["metrics"]["top1_error"] == 10.34
    assert "torch" in found["environment"]
    header = int.from_bytes(SPEC.weights.read_bytes()[:8], "little")
    assert sum(found["tensor_bytes"].values()) == found["bytes"] - 8 - header


def test_an_exported_graph(inspect, exported):
    found = inspect(exported / "tiny" / "1" / "model.onnx")
    assert found["ours"] is True
    assert found["metadata"] == {"model": "tiny", "trained": "true"}
    assert found["inputs"] == {"image": "uint8 [N, 32, 32, 3]"}
    assert found["outputs"] == dict.fromkeys(("logits", "probabilities"), "float32 [N, 10]")
    assert found["opsets"]["ai.onnx"] >= 17
    assert found["weights"] == {"float32": found["nodes"]["Conv"] + found["nodes"]["Gemm"]}
    assert found["stored_bytes"] == {"float32": 4 * found["parameters"]}
    assert found["external"] is False


def write_quantised(path):
    """A convolution with int8 weights and a product with fp16 ones, as a quantiser leaves them."""
    tensors = {
        "kernel": np.ones((4, 3, 1, 1), np.int8),
        "scale": np.ones(1, np.float32),
        "zero": np.zeros(1, np.int8),
        "matrix": np.ones((4, 2), np.float16),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["quantised"]),
        helper.make_node("DequantizeLinear", ["quantised", "scale", "zero"], ["restored"]),
        helper.make_node("DequantizeLinear", ["kernel", "scale", "zero"], ["weight"]),
        helper.make_node("Conv", ["restored", "weight"], ["features"]),
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Cast", ["matrix"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["flat", "cast"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "someone's",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(
        graph, producer_name="quantiser", opset_imports=[helper.make_opsetid("", 17)]
    )
    onnx.save(model, path)


def test_the_types_that_weights_are_really_stored_in(run, tmp_path):
    path = tmp_path / "quantised.onnx"
    write_quantised(path)
    found = read_graph(path)
    assert found.ours is False
    assert found.producer == "quantiser"
    assert found.weights == {"int8": 1, "float16": 1}
    assert found.stored_bytes == {"float16": 16, "int8": 13, "float32": 4}
    assert found.inputs == {"x": "float32 [batch, 3, 8, 8]"}
    status, out, _ = run("inspect", path)
    assert status == 0
    said = " ".join(out.split())
    assert "an ONNX graph, not of ours" in said
    assert "1 in int8 and 1 in float16; 1 QuantizeLinear and 2 DequantizeLinear nodes" in said


@pytest.mark.parametrize(
    ("head", "builder", "version"),
    [(RTX_PLAN, "TensorRT-RTX", "1.7.1.116"), (TENSORRT_PLAN, "TensorRT", "10.13.3.9")],
)
def test_a_plan(inspect, run, tmp_path, head, builder, version):
    path = tmp_path / "model.plan"
    path.write_bytes(head + bytes(1000))
    found = read_plan(path)
    assert (found.builder, found.version) == (builder, version)
    assert found.bytes == len(head) + 1000
    status, out, _ = run("inspect", path)
    assert status == 0
    assert f"{builder} {version}" in out
    assert "none beside it" in out
    assert inspect(path)["manifest"] is None


def test_a_plan_is_told_by_the_manifest_beside_it(run, repository):
    path = repository / "tiny" / "1" / "model.plan"
    path.write_bytes(RTX_PLAN)
    _, out, _ = run("inspect", path)
    assert "onnxruntime in fp32" in out
    assert "plan for" not in out


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
def test_what_a_plan_is_good_for(inspect, run, repository, inspected):
    version = repository / "tiny" / "1"
    (version / "model.plan").write_bytes(TENSORRT_PLAN)
    manifest = json.loads((version / "manifest.json").read_text()) | {"engine": ENGINE}
    (version / "manifest.json").write_text(json.dumps(manifest))
    assert inspect(version / inspected)["manifest"]["engine"] == ENGINE
    _, out, _ = run("inspect", version / inspected)
    said = " ".join(out.split())
    for fact in (
        "plan for GPUs of compute capability 8.9; built on NVIDIA L4",
        "loaded by tensorrt 10.13.3.9 only",
        "profile image from [1, 8, 8, 3] to [16, 8, 8, 3], best at [4, 8, 8, 3]",
        "precision matrix products of the engine: 12 in int8 and 3 in fp16",
    ):
        assert fact in said
    portable = {"minimum_compute_capability": "8.0", "built_on": None}
    (version / "manifest.json").write_text(json.dumps(manifest | {"engine": ENGINE | portable}))
    _, out, _ = run("inspect", version / inspected)
    said = " ".join(out.split())
    assert "capability 8.0 or later loaded by" in said


def test_a_version(inspect, run, repository):
    found = inspect(repository / "tiny")
    assert found["kind"] == "version"
    assert (found["model"], found["number"], found["served"]) == ("tiny", "1", True)
    states = {file["name"]: file["state"] for file in found["files"]}
    assert states == {"model.onnx": "whole", "evidence.npz": "whole", "labels.txt": "whole"}
    assert found["labels"] == list(CIFAR10.class_names)
    assert found["manifest"]["verification"]["status"] == "passed"
    config = found["config"]
    assert (config["max_batch_size"], config["instances"], config["threads"]) == (8, 1, None)
    assert config["warmup_batches"] == [1, 8]
    assert config["dynamic_batching"] is True
    status, out, _ = run("inspect", repository / "tiny" / "1")
    assert status == 0
    assert "tiny/1: an exported version, served" in out


def test_a_version_whose_files_were_touched(run, repository):
    artefact = repository / "tiny" / "1" / "model.onnx"
    content = bytearray(artefact.read_bytes())
    content[len(content) // 2] ^= 1
    artefact.write_bytes(content)

    def state():
        (file,) = [one for one in read_version(artefact.parent).files if one.name == artefact.name]
        return file.state, file.bytes

    assert state() == ("changed", len(content))
    artefact.unlink()
    assert state() == ("missing", len(content))
    status, out, err = run("inspect", artefact.parent)
    assert status == 0
    assert "missing" in out
    assert "export the model again" in err


def test_a_version_that_is_not_served_or_in_no_repository(repository, tmp_path):
    shutil.copytree(repository / "tiny" / "1", repository / "tiny" / "2")
    assert read_version(repository / "tiny" / "2").served is False
    alone = shutil.copytree(repository / "tiny" / "1", tmp_path / "alone")
    found = read_version(alone)
    assert (found.served, found.config) == (None, None)


def test_threads_and_instances(repository):
    config = repository / "tiny" / "config.pbtxt"
    with config.open("a") as file:
        file.write(
            "instance_group { count: 3 kind: KIND_CPU }\n"
            'parameters { key: "intra_op_thread_count" value { string_value: "4" } }\n'
        )
    found = read_config(repository / "tiny")
    assert (found.instances, found.threads) == (4, 4)
    config.write_text('backend: "openvino"')
    found = read_config(repository / "tiny")
    assert (found.instances, found.threads, found.warmup_batches) == (1, None, ())


def test_a_repository_in_one_row_a_model(inspect, run, repository):
    shutil.copytree(repository / "tiny" / "1", repository / "tiny" / "3")
    (repository / "broken").mkdir()
    (repository / "broken" / "config.pbtxt").write_text("max_batch_size: many")
    broken, tiny = inspect(repository)["models"]
    assert "cannot be read" in broken["fault"]
    assert (tiny["version"], tiny["others"], tiny["fault"]) == (1, [3], None)
    assert tiny["manifest"]["trained"] is True
    status, out, err = run("inspect", repository)
    assert status == 0
    assert "tiny" in out
    assert "broken: The configuration" in err
    shutil.rmtree(repository / "tiny" / "1")
    assert "is missing" in read_repository(repository)[1].fault


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx", ".plan"])
@pytest.mark.parametrize(
    "content",
    [b"", b"no artefact at all\n", bytes(100), b"\xff" * 64, np.random.default_rng(0).bytes(5000)],
    ids=["empty", "text", "zeros", "ones", "random"],
)
def test_garbage(refusal, tmp_path, suffix, content):
    path = tmp_path / f"garbage{suffix}"
    path.write_bytes(content)
    assert f"{path} is not a" in refusal(path)


@pytest.mark.parametrize("length", [100, 1000, -1])
def test_a_graph_that_is_cut_off(refusal, exported, tmp_path, length):
    path = tmp_path / "cut.onnx"
    path.write_bytes((exported / "tiny" / "1" / "model.onnx").read_bytes()[:length])
    assert "is not an ONNX model" in refusal(path)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"model": 1}', "null"])
def test_a_manifest_that_says_nothing(refusal, repository, text):
    (repository / "tiny" / "1" / "manifest.json").write_text(text)
    said = refusal(repository / "tiny" / "1")
    assert "manifest.json" in said


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


def test_nothing_needs_torch(exported):
    paths = [SPEC.weights, exported / "tiny" / "1" / "model.onnx", exported / "tiny", exported]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *paths], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
