"""The whole path on a tiny trained network, and every way it can end."""

import dataclasses
import json
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch

from delugeserve.artifacts.records import Origin
from delugeserve.errors import (
    CheckpointError,
    ParityError,
    RepositoryError,
    UnknownNameError,
    UsageError,
)
from delugeserve.networks.build import build_network
from delugeserve.networks.checkpoint import Checkpoint, save_checkpoint
from delugeserve.networks.inference import fold
from delugeserve.runtimes.onnxruntime import OnnxRuntime
from delugeserve.zoo import CIFAR10, ModelSpec, find_model
from delugeserve_export.graph import build_graph
from delugeserve_export.int8 import Int8Options
from delugeserve_export.pipeline import Progress, export
from delugeserve_export.request import Request, settle

TINY = ModelSpec("tiny", "cifar", (4, 6), (2, 2), CIFAR10)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    network = build_network(TINY, seed=0)
    with torch.no_grad():  # signals of a trained network's size
        for _ in range(5):
            network(torch.randn(32, 3, 32, 32))
        network.head.linear.weight.mul_(10)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(Checkpoint(TINY, CIFAR10.class_names, network.state_dict()), path)
    return path


@pytest.fixture
def request_for(checkpoint, tmp_path):
    request = Request(TINY, checkpoint, tmp_path / "repository", max_batch_size=16)
    return lambda **changes: dataclasses.replace(request, **changes)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_every_backend_of_the_cpu_publishes_a_proven_version(request_for, backend):
    progress = Progress()
    done = export(request_for(backend=backend, precision="fp32"), progress)
    assert done.folder.name == "1"
    manifest = json.loads((done.folder / "manifest.json").read_text())
    assert manifest["backend"] == backend
    assert manifest["trained"] is True
    assert manifest["verification"]["status"] == "passed"
    rows = manifest["verification"]["comparisons"]
    assert [row["batch_size"] for row in rows] == [1, 7, 16]
    assert all(row["top1_agreement"] == 1 for row in rows)
    assert set(manifest["speed"]) == {"fp32"}
    for name, file in manifest["files"].items():
        assert (done.folder / name).stat().st_size == file["bytes"]
    assert (done.folder / "labels.txt").read_text().splitlines() == list(CIFAR10.class_names)
    assert list(progress.seconds) == [
        "load", "fold", "forms", "graph", "build", "reference", "verify", "time", "publish",
    ]  # fmt: skip


def test_bf16_is_proved_twice(request_for):
    done = export(request_for(backend="openvino", precision="bf16"))
    rows = done.manifest.verification.comparisons
    assert [(row.precision, row.batch_size) for row in rows] == [
        ("fp32", 8),
        ("bf16", 1),
        ("bf16", 7),
        ("bf16", 16),
    ]
    assert set(done.manifest.speed) == {"bf16", "fp32"}


def test_an_untrained_network_is_stamped(tmp_path):
    spec = dataclasses.replace(TINY, name="untrained")
    done = export(Request(spec, None, tmp_path / "repository", backend="onnxruntime"))
    assert done.manifest.trained is False
    assert done.manifest.checkpoint == Origin(seed=0)


def test_a_broken_artefact_is_not_published(request_for, monkeypatch, tmp_path):
    honest = OnnxRuntime.load

    def broken(self, artefact, precision):
        infer = honest(self, artefact, precision)
        return lambda images: infer(np.ascontiguousarray(images[..., ::-1]))

    monkeypatch.setattr(OnnxRuntime, "load", broken)
    with pytest.raises(ParityError, match="Nothing was published") as caught:
        export(request_for(backend="onnxruntime"))
    assert caught.value.manifest.verification.status == "failed"
    assert caught.value.manifest.speed == {}
    assert not (tmp_path / "repository" / "tiny").exists()
    assert not list(tmp_path.glob(".repository-*"))


@pytest.mark.parametrize(
    "changes",
    [{}, {"sum_form": "mul"}, {"precision": "int8", "int8": Int8Options(calibration_images=4)}],
    ids=["forms", "build", "quantise"],
)
def test_no_room_for_temporary_files_is_said_in_a_sentence(
    request_for, monkeypatch, tmp_path, changes
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(UsageError, match=r"Temporary files cannot be written to .*gone"):
        export(request_for(backend="onnxruntime", **changes))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_full_disk_publishes_nothing(request_for, backend):
    request = request_for(backend=backend, precision="fp32", sum_form="mul")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(RepositoryError, match=r"The model repository .* cannot be written: "):
            export(request)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (request.repository / "tiny").exists()


def test_what_onnxruntime_cannot_write_to_be_counted_is_a_matter_of_room(tmp_path):
    graph = build_graph(fold(build_network(TINY).eval()), CIFAR10)
    artefact = OnnxRuntime().build(graph, tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(UsageError, match="Temporary files cannot be written"):
            OnnxRuntime().executed_precisions(artefact, "fp32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_checkpoint_of_another_model_is_refused(request_for):
    with pytest.raises(CheckpointError, match="holds 'tiny'"):
        export(request_for(model=find_model("delugenet146")))


def test_the_model_may_be_left_to_the_checkpoint(request_for):
    assert export(request_for(model=None, backend="onnxruntime")).manifest.model == "tiny"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend": "onnxruntim"}, "Did you mean 'onnxruntime'"),
        ({"backend": "onnxruntime", "precision": "bf16"}, "precision of ONNX Runtime 'bf16'"),
        ({"precision": "fp23"}, "fp32"),
        ({"sum_form": "batchnrm"}, "Did you mean 'batchnorm'"),
    ],
)
def test_unknown_names_suggest_the_nearest(request_for, changes, message):
    with pytest.raises(UnknownNameError, match=message):
        export(request_for(**changes))


def test_an_empty_batch_is_refused(request_for):
    with pytest.raises(UsageError, match="at least 1"):
        export(request_for(max_batch_size=0))


def test_auto_takes_no_plan_where_it_could_not_run(monkeypatch, request_for):
    monkeypatch.setattr("delugeserve.system.hardware.usable_gpus", tuple)
    with pytest.raises(UnknownNameError, match=r"no precision of .* 'fp16'"):
        settle(request_for(backend="auto", precision="fp16"))


def test_verification_stays_affordable():
    assert 8 <= settle(Request(find_model("delugenet122"))).num_images <= 24


def test_a_network_may_be_let_go_in_any_thread(request_for):
    """OpenVINO's signal stack goes with it, and then any signal would end the process."""
    done = export(request_for(backend="openvino", precision="fp32"))
    script = (
        "import gc, signal, sys, threading\n"
        "from pathlib import Path\n"
        "from delugeserve.verification.verify import load_version\n"
        "held = [load_version(Path(sys.argv[1]))]\n"
        "def let_go():\n"
        "    held.clear()\n"
        "    gc.collect()\n"
        "thread = threading.Thread(target=let_go)\n"
        "thread.start()\n"
        "thread.join()\n"
        "signal.signal(signal.SIGUSR1, lambda *_: None)\n"
        "signal.raise_signal(signal.SIGUSR1)\n"
        "print('alive')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(done.folder)], capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout) == (0, "alive\n"), ran.stderr


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_settled_is_what_happens(request_for, precision):
    request = request_for(backend="openvino", precision=precision)
    settled = settle(request)
    folder = settled.folder
    assert not request.repository.exists()
    progress = Progress()
    done = export(request, progress)
    assert done.folder == folder
    assert list(progress.seconds) == list(settled.stages)
    compared = done.manifest.verification.comparisons
    assert sorted({row.batch_size for row in compared if row.precision == precision}) == list(
        settled.sizes
    )
    assert settle(request).folder.name == "2"


def test_a_version_may_be_named_once(request_for):
    assert export(request_for(version=5, backend="onnxruntime")).folder.name == "5"
    with pytest.raises(RepositoryError, match="has a version 5 already"):
        settle(request_for(version=5))
    assert settle(request_for()).folder.name == "6"
