"""``delugeserve export --backend tensorrt-rtx``, from the command to the repository."""

import json

import pytest

from delugeserve.system import hardware

pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: delugeserve[tensorrt-rtx]")
pytestmark = pytest.mark.skipif(bool(hardware.usable_gpus()), reason="this machine has a GPU")


def test_a_plan_is_built_and_not_run_and_says_so_everywhere(run, tmp_path):
    command = ("export", "--backend", "tensorrt-rtx", "--model", "delugenet38",
               "--precision", "fp16", "--repository", tmp_path / "repository")  # fmt: skip
    status, out, err = run(*command, "--compute-capability", "8.9", "--dump-layers")
    assert status == 0, err
    said = " ".join(out.split())
    assert "built, not run: TensorRT-RTX runs on an NVIDIA GPU, and this machine has none" in said
    assert "its ONNX graph in fp16, by ONNX Runtime: logits within" in said
    assert "passed" not in out + err
    folder = tmp_path / "repository" / "delugenet38" / "1"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["verification"]["status"] == "built, not run"
    assert manifest["engine"]["compute_capabilities"] == ["8.9"]
    assert manifest["files"].keys() == {
        "model.plan",
        "engine.json",
        "layers.txt",
        "evidence.npz",
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
    ("option", "said"),
    [
        ("--version-compatible", "TensorRT-RTX has no use for --version-compatible"),
        ("--timing-cache=x", "TensorRT-RTX has no use for --timing-cache"),
        ("--compute-capability=8.7", "Did you mean '8.9'?"),
        ("--precision=fp8", "There is no precision of TensorRT-RTX 'fp8'"),
    ],
)
def test_flags_it_does_not_know_are_refused_in_a_sentence(run, tmp_path, option, said):
    repository = tmp_path / "repository"
    status, _, err = run("export", "--backend", "tensorrt-rtx", "--model", "delugenet38",
                         "--repository", repository, option)  # fmt: skip
    assert status == 2
    assert said in err
    assert not list(repository.glob("*"))


def test_a_dry_run_promises_nothing_that_takes_a_gpu(run, tmp_path):
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
    assert "at batch" not in out
