"""The whole path on a tiny trained network, and every way it can end."""

import dataclasses
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch

from delugeserve.artifacts.changes import Change
from delugeserve.artifacts.manifest import read_manifest
from delugeserve.artifacts.model_config import read_config
from delugeserve.artifacts.records import Origin
from delugeserve.errors import (
    CheckpointError,
    ClassNameError,
    ModelNameError,
    OtherClassesError,
    RepositoryError,
    UnknownNameError,
    UsageError,
)
from delugeserve.networks.build import build_network
from delugeserve.networks.checkpoint import Checkpoint, save_checkpoint
from delugeserve.networks.inference import fold
from delugeserve.runtimes.onnxruntime import OnnxRuntime
from delugeserve.system import hardware
from delugeserve.zoo import CIFAR10, MODELS, Architecture, ModelSpec, find_model
from delugeserve_export import Int8Options, Stage, export, plan_export
from delugeserve_export.graph import build_graph

TINY = ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6), (2, 2)), CIFAR10)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    network = build_network(TINY, seed=0)
    with torch.no_grad():  # signals of a trained network's size
        for _ in range(5):
            network(torch.randn(32, 3, 32, 32))
        network.head.linear.weight.mul_(10)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(Checkpoint(TINY, network.state_dict()), path)
    return path


@pytest.fixture
def plan_for(checkpoint, tmp_path):
    options = {
        "model": TINY,
        "checkpoint": checkpoint,
        "repository": tmp_path / "repository",
        "max_batch_size": 16,
    }
    return lambda **changes: plan_export(**options | changes)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_every_backend_of_the_cpu_publishes_a_proven_version(plan_for, backend):
    done = export(plan_for(backend=backend, precision="fp32"))
    assert done.published
    assert done.folder.name == "1"
    manifest = read_manifest(done.folder)
    assert manifest == done.manifest
    assert manifest.backend == backend
    assert manifest.trained
    assert manifest.verification.status == "passed"
    rows = manifest.verification.comparisons
    assert [row.batch_size for row in rows] == [1, 7, 16]
    assert all(row.top1_agreement == 1 for row in rows)
    assert set(manifest.speed) == {"fp32"}
    for name, file in manifest.files.items():
        assert (done.folder / name).stat().st_size == file.bytes
    assert (done.folder / "labels.txt").read_text().splitlines() == list(CIFAR10.class_names)
    assert list(done.seconds) == [
        "load", "fold", "forms", "graph", "build", "reference", "verify", "time", "publish",
    ]  # fmt: skip


@pytest.mark.parametrize(("image_ms", "sizes"), [(4.0, (16, 64)), (0.1, ())])
def test_batches_are_even_where_they_take_long(plan_for, monkeypatch, image_ms, sizes):
    monkeypatch.setattr(hardware, "usable_cores", lambda: 2)
    monkeypatch.setattr(
        "delugeserve_export.pipeline.measure_speed",
        lambda runs, images, batches: {
            name: {size: size * image_ms for size in batches} for name in runs
        },
    )
    done = export(plan_for(backend="onnxruntime", max_batch_size=64))
    assert (read_config(done.folder.parent).queue.preferred_batch_sizes or ()) == sizes


def test_bf16_is_proved_twice(plan_for):
    done = export(plan_for(backend="openvino", precision="bf16"))
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
    done = export(plan_export(spec, repository=tmp_path / "repository", backend="onnxruntime"))
    assert done.manifest.trained is False
    assert done.manifest.checkpoint == Origin(seed=0)


def test_a_broken_artefact_is_not_published(plan_for, monkeypatch, tmp_path):
    honest = OnnxRuntime.load

    def broken(self, artefact, precision):
        infer = honest(self, artefact, precision)
        return lambda images: infer(np.ascontiguousarray(images[..., ::-1]))

    monkeypatch.setattr(OnnxRuntime, "load", broken)
    outcome = export(plan_for(backend="onnxruntime"))
    assert not outcome.published
    assert outcome.folder is None
    assert outcome.manifest.verification.status == "failed"
    assert outcome.manifest.speed == {}
    first = outcome.manifest.verification.failures[0]
    assert first.name in outcome.problem
    assert "--precision fp32" not in outcome.remedy, "fp32 was used already"
    assert not (tmp_path / "repository" / "tiny").exists()
    assert not list(tmp_path.glob(".repository-*"))


@pytest.mark.parametrize(
    "changes",
    [{}, {"sum_form": "mul"}, {"precision": "int8", "int8": Int8Options(calibration_images=4)}],
    ids=["forms", "build", "quantise"],
)
def test_no_room_for_temporary_files_is_said_in_a_sentence(
    plan_for, monkeypatch, tmp_path, changes
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(UsageError, match=r"Temporary files cannot be written to .*gone"):
        export(plan_for(backend="onnxruntime", **changes))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_full_disk_publishes_nothing(plan_for, backend):
    plan = plan_for(backend=backend, precision="fp32", sum_form="mul")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(RepositoryError, match=r"The model repository .* cannot be written: "):
            export(plan)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (plan.repository / "tiny").exists()


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


def test_a_checkpoint_of_another_model_is_refused(plan_for):
    with pytest.raises(CheckpointError, match="holds 'tiny'"):
        export(plan_for(model=find_model("delugenet146")))


def test_the_model_may_be_left_to_the_checkpoint(plan_for):
    assert export(plan_for(model=None, backend="onnxruntime")).manifest.model == "tiny"


@pytest.mark.parametrize(
    ("changes", "nearest"),
    [
        ({"backend": "onnxruntim"}, "onnxruntime"),
        ({"backend": "onnxruntime", "precision": "bf61"}, None),
        ({"precision": "fp23"}, "fp32"),
        ({"sum_form": "batchnrm"}, "batchnorm"),
    ],
)
def test_unknown_names_suggest_the_nearest(plan_for, changes, nearest):
    with pytest.raises(UnknownNameError) as caught:
        plan_for(**changes)
    assert caught.value.nearest == nearest
    assert caught.value.name in changes.values()


def test_an_empty_batch_is_refused(plan_for):
    with pytest.raises(UsageError, match="--max-batch-size"):
        export(plan_for(max_batch_size=0))


def test_auto_takes_no_plan_where_it_could_not_run(monkeypatch, plan_for):
    monkeypatch.setattr("delugeserve.system.hardware.usable_gpus", tuple)
    with pytest.raises(UnknownNameError, match="fp16"):
        plan_for(backend="auto", precision="fp16")


def test_verification_stays_affordable():
    assert 8 <= plan_export("delugenet122").num_images <= 24


def test_a_network_may_be_let_go_in_any_thread(plan_for):
    """OpenVINO's signal stack goes with it, and then any signal would end the process."""
    done = export(plan_for(backend="openvino", precision="fp32"))
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


class Recorder:
    """Progress that keeps the names of the stages."""

    def __init__(self):
        self.stages = []

    def stage(self, name, total=None):
        self.stages.append(name)

    def advance(self, steps=1, note=""):
        pass


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_planned_is_what_happens(plan_for, precision):
    plan = plan_for(backend="openvino", precision=precision)
    folder = plan.folder
    assert not plan.repository.exists()
    progress = Recorder()
    done = export(plan, progress)
    assert done.folder == folder
    assert tuple(progress.stages) == tuple(done.seconds) == plan.stages
    assert set(done.manifest.seconds) == set(plan.stages) - {Stage.PUBLISH}
    compared = done.manifest.verification.comparisons
    sizes = {row.batch_size for row in compared if row.precision == precision}
    assert sorted(sizes) == list(plan.batch_sizes)
    assert plan_for().folder.name == "2"


def test_a_version_may_be_named_once(plan_for):
    plan = plan_for(version=5, backend="onnxruntime")
    assert export(plan).folder.name == "5"
    with pytest.raises(RepositoryError, match="version 5"):
        plan_for(version=5)
    assert plan_for().folder.name == "6"


def test_a_model_may_be_a_name_or_a_checkpoint(plan_for, checkpoint):
    assert plan_for(model=str(checkpoint), checkpoint=None).spec.name == "tiny"
    plan = plan_export("delugenet38")
    assert (plan.spec.name, plan.source.trained) == ("delugenet38", True)
    assert plan_export("delugenet92").source is None
    with pytest.raises(UsageError, match="delugenet38"):
        plan_export("delugenet83")
    with pytest.raises(UsageError, match="--checkpoint"):
        plan_export()


def test_a_baseline_is_refused_before_the_work():
    name = next(name for name, spec in MODELS.items() if spec.architecture.baseline)
    with pytest.raises(UsageError, match="baseline"):
        plan_export(name)


def test_a_class_name_with_a_line_break_is_refused_where_it_enters(plan_for, tmp_path):
    network = build_network(TINY, seed=0)
    names = ("air\u2028plane", *CIFAR10.class_names[1:])
    path = tmp_path / "breaks.safetensors"
    save_checkpoint(Checkpoint(TINY.with_classes(names), network.state_dict()), path)
    with pytest.raises(ClassNameError) as caught:
        plan_for(checkpoint=path)
    assert caught.value.name == names[0]


def test_a_model_is_published_under_its_networks_name_or_another(plan_for, checkpoint):
    options = {"model": None, "backend": "onnxruntime", "sum_form": "mul"}
    assert plan_for(**options | {"model": "tiny"}).name == "tiny"
    plan = plan_for(**options, name="flowers.v2")
    assert plan.changes is None
    done = export(plan)
    assert done.folder == plan.repository / "flowers.v2" / "1"
    assert (done.manifest.model, done.manifest.network.name) == ("flowers.v2", "tiny")
    assert read_config(done.folder.parent).name == "flowers.v2"
    assert done.changes is None
    with pytest.raises(ModelNameError) as caught:
        plan_for(name="my flowers")
    assert caught.value.nearest == "my_flowers"
    plan = plan_for(**options, name="flowers.v2", max_batch_size=4)
    assert set(plan.changes.facts) == {"max_batch_size"}
    path = done.folder.parent / "config.pbtxt"
    path.write_text(path.read_text().replace("count: 1", "count: 2"))
    done = export(plan)
    assert done.changes.version == 1
    assert done.changes.facts["max_batch_size"] == Change(16, 4)
    assert not done.changes.classes
    assert {one.field for one in done.config.kept} == {"instance_group"}
    assert set(done.manifest.files) == {
        "evidence.npz", "generated.pbtxt", "labels.txt", "model.onnx"
    }  # fmt: skip


def test_other_classes_are_refused_before_any_work(plan_for, tmp_path):
    assert export(plan_for(backend="onnxruntime", sum_form="mul")).published
    spec = TINY.with_classes([*CIFAR10.class_names[1:], "rose"])
    network = build_network(spec, seed=1)
    path = tmp_path / "flowers.safetensors"
    save_checkpoint(Checkpoint(spec, network.state_dict()), path)
    other = {"model": None, "checkpoint": path, "backend": "onnxruntime"}
    with pytest.raises(OtherClassesError) as caught:
        plan_for(**other)
    assert (caught.value.version, caught.value.added) == (1, ("rose",))
    assert plan_for(**other, name="flowers").changes is None
    changes = plan_for(**other, replace_classes=True).changes
    assert (changes.classes.added, changes.classes.removed) == (("rose",), ("airplane",))


@pytest.mark.parametrize("broken", ["model_warmup {", "max_batch_size: many"])
def test_a_broken_configuration_is_refused_before_any_work(plan_for, broken):
    path = plan_for().repository / "tiny" / "config.pbtxt"
    path.parent.mkdir(parents=True)
    path.write_text(broken)
    with pytest.raises(RepositoryError) as caught:
        plan_for()
    assert caught.value.path == path
    assert path.read_text() == broken


def test_a_full_disk_leaves_hand_edits_and_the_version_that_is_served(plan_for):
    options = {"backend": "onnxruntime", "precision": "fp32", "sum_form": "mul"}
    folder = export(plan_for(**options)).folder.parent
    path = folder / "config.pbtxt"
    edited = path.read_text() + "# mine\nresponse_cache { enable: true }\n"
    path.write_text(edited)
    plan = plan_for(**options)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(RepositoryError):
            export(plan)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == edited
    assert sorted(one.name for one in folder.iterdir()) == ["1", "config.pbtxt"]
