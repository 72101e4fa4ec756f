"""The whole chain on real parts: shipped weights, real images, a real server."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest
from PIL import Image

from delugeserve.artifacts.manifest import read_manifest
from delugeserve.artifacts.references import recognise
from delugeserve.data.datasets import load_images
from delugeserve.evaluation.evaluate import evaluate_fully
from delugeserve.evaluation.subjects import open_subject
from delugeserve.zoo import CIFAR10, find_model
from delugeserve_export import export, plan_export

SPEC = find_model("delugenet38")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    repository = tmp_path_factory.mktemp("chain") / "model_repository"
    export(plan_export(SPEC, repository=repository))
    return repository


def test_quickstart_classifies_the_cat_and_leaves_nothing(tmp_path):
    mark = uuid.uuid4().hex  # in the environment of every process it starts
    folder, temporary = tmp_path / "folder", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "delugeserve", "quickstart", "--seconds", "0.5", "--json"],
        cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | {"DELUGESERVE_TEST_MARK": mark, "TMPDIR": str(temporary)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    best = result["photographs"]["chelsea.png"][0]
    assert best["label"] == "cat"
    assert best["probability"] > 0.5
    assert [row["batch_size"] for row in result["latency"]] == [1, 16]
    assert all(row.keys() == {"batch_size", "p50_ms", "p99_ms", "images_per_s"}
               for row in result["latency"])  # fmt: skip
    assert list(folder.iterdir()) == list(temporary.iterdir()) == []
    assert [process for process in psutil.process_iter() if has_mark(process, mark)] == []


def has_mark(process, mark):
    try:
        return process.environ().get("DELUGESERVE_TEST_MARK") == mark
    except psutil.Error:  # it has ended, or belongs to another user
        return False


def test_verifying_through_the_server_asks_the_very_version(tmp_path):
    from delugeserve.serving.supervisor import serve

    plan = plan_export(
        SPEC, repository=tmp_path / "repository", backend="onnxruntime", max_batch_size=8
    )
    first = export(plan).folder

    def verify(folder):
        return subprocess.run(
            [sys.executable, "-m", "delugeserve", "verify", folder, "--url", server.grpc_url],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def verification(folder):
        return read_manifest(folder).verification

    with serve(
        tmp_path / "repository", grpc_port=0, http_port=None, metrics_port=None, direct=True
    ) as server:
        second = export(plan).folder  # the server has the first one loaded
        done = verify(first)
        assert done.returncode == 0, done.stderr
        assert verification(first).machine == f"the server at {server.grpc_url}"
        before = verification(second)
        done = verify(second)
        assert done.returncode == 2
        assert "version" in done.stderr
        assert verification(second) == before
    verified = verification(first)
    done = verify(first)
    assert done.returncode == 2
    assert "No server answers" in done.stderr
    assert verification(first) == verified


@pytest.mark.data
def test_the_error_is_the_same_through_every_stage(cifar10_dir, repository, tmp_path):
    """PyTorch, ONNX Runtime, OpenVINO in bf16, and the server: within 0.05 points."""
    from delugeserve.serving.supervisor import serve

    data = load_images(cifar10_dir, "test", CIFAR10, limit=2500)

    def measure(subject):
        with open_subject(recognise(str(subject)), SPEC.name) as opened:
            return evaluate_fully(opened.classify, data)

    pytorch = measure(SPEC.weights)
    done = export(plan_export(SPEC, repository=tmp_path / "onnx", backend="onnxruntime"))
    reports = {"onnx": measure(done.folder / "model.onnx")}
    for name, folder in (("served", repository), ("served onnx", tmp_path / "onnx")):
        with serve(folder, grpc_port=0, http_port=None, metrics_port=None, direct=True) as server:
            reports[name] = measure(server.grpc_url)
    assert pytorch.top1_error <= 15
    for name, report in reports.items():
        # The first repository holds what this machine serves fastest, perhaps in bf16.
        error, likelihood = (0.3, 0.01) if name == "served" else (0.05, 1e-4)
        assert report.top1_error == pytest.approx(pytorch.top1_error, abs=error), name
        assert report.calibration_error == pytest.approx(pytorch.calibration_error, abs=error), name
        assert report.negative_log_likelihood == pytest.approx(
            pytorch.negative_log_likelihood, abs=likelihood
        ), name


@pytest.mark.data
def test_training_through_the_command_line(cifar10_dir, tmp_path):
    """A few hundred real images, one epoch, and the checkpoint goes through the rest."""
    data = tmp_path / "cifar10"
    for split in ("train", "test"):
        images = load_images(cifar10_dir, split, CIFAR10, limit=512)
        for row, (pixels, label) in enumerate(zip(images.images, images.labels, strict=True)):
            file = data / split / images.class_names[label] / f"{row:03d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    output = tmp_path / "run"
    environment = os.environ | {"DELUGESERVE_DATA": str(data)}

    def deluge(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "delugeserve", *map(str, arguments)],
            capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    trained = deluge("train", "--model", "delugenet38", "--epochs", 1, "--output", output, "--json")
    checkpoint = Path(trained["checkpoint"])
    evaluated = deluge("evaluate", "--checkpoint", checkpoint, "--json")
    assert evaluated["top1_error"] == trained["top1_error"]
    exported = deluge(
        "export", "--checkpoint", checkpoint, "--repository", tmp_path / "repository",
        "--backend", "onnxruntime", "--json",
    )  # fmt: skip
    version = deluge("evaluate", "--version", exported["folder"], "--json")
    assert version["top1_error"] == pytest.approx(trained["top1_error"], abs=0.05)
