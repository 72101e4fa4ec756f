"""``delugeserve export --backend tensorrt-rtx``, from the command to the repository."""

import json

import pytest

from delugeserve.system import hardware

pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: delugeserve[tensorrt-rtx]")
pytestmark = pytest.mark.skipif(bool(hardware.usable_gpus()), reason="this machine has a GPU")


def test_a_plan_is_built_but_not_run(run, tmp_path):
    command = ("export", "--backend", "tensorrt-rtx", "--model", "delugenet38",
               "--precision", "fp16", "--repository", tmp_path / "repository")  # fmt: skip
    status, out, err = run(*command)
    assert status == 0, err
    printed = " ".join(out.split())
    assert "built, not run" in printed
    assert "an NVIDIA GPU" in printed
    assert "ONNX graph in fp16, by ONNX Runtime" in printed
    assert "passed" not in out + err
    folder = tmp_path / "repository" / "delugenet38" / "1"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["verification"]["status"] == "built, not run"
    assert manifest["engine"]["minimum_compute_capability"] == "8.0"
    assert manifest["files"].keys() == {
        "model.plan",
        "engine.json",
        "evidence.npz",
        "generated.pbtxt",
        "labels.txt",
    }
    for command in (("evaluate", folder, "--data", tmp_path), ("verify", folder)):
        status, out, err = run(*command)
        assert status == 2
        assert "runs on an NVIDIA GPU" in err
    ports = ("--grpc-port", 0, "--metrics-port", 0, "--no-http")
    status, out, err = run("serve", "--repository", tmp_path / "repository", *ports)
    assert status == 2
    assert "'delugenet38' is a TensorRT-RTX plan" in err


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--optimal-batch-size=65", "--optimal-batch-size"),
        ("--precision=fp8", "'fp8'"),
    ],
)
def test_a_bad_value_is_refused_before_any_work(run, tmp_path, option, named):
    repository = tmp_path / "repository"
    status, _, err = run("export", "--backend", "tensorrt-rtx", "--model", "delugenet38",
                         "--repository", repository, option)  # fmt: skip
    assert status == 2
    assert named in err
    assert not list(repository.glob("*"))


def test_a_dry_run_leaves_out_what_needs_a_gpu(run, tmp_path):
    command = ("export", "--backend", "tensorrt-rtx", "--model", "delugenet38",
               "--repository", tmp_path / "repository", "--dry-run")  # fmt: skip
    status, out, _ = run(*command, "--json")
    planned = json.loads(out)
    assert (status, planned["runs_here"]) == (0, False)
    assert planned["stages"] == [
        "load", "fold", "graph", "build", "reference", "verify", "publish",
    ]  # fmt: skip
    status, out, _ = run(*command)
    assert status == 0
    assert "built, not run" in out
    assert "1, 7" not in out
