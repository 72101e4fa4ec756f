"""The whole path to int8 on a tiny trained network, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from delugeserve.artifacts.manifest import read_manifest
from delugeserve.data.datasets import load_images
from delugeserve.errors import DatasetError, ParityError, UnknownNameError, UsageError
from delugeserve.networks.build import build_network
from delugeserve.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from delugeserve.networks.classifier import normalise
from delugeserve.runtimes.onnxruntime import OnnxRuntime
from delugeserve.system import hardware
from delugeserve.verification.verify import verify_version
from delugeserve.zoo import CIFAR10, Architecture, ModelSpec
from delugeserve_export import Int8Options, export, plan_export
from delugeserve_export.samples import sample_images

TINY = ModelSpec("tiny", Architecture("tiny", "cifar", (8, 12), (2, 2)), CIFAR10)
CONVOLUTIONS = 14


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_tiny_cifar):
    return write_tiny_cifar(tmp_path_factory.mktemp("data") / "tiny-cifar")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, data):
    """Trained until it is sure of the colours, so that rounding does not change its mind."""
    found = load_images(data, "train", CIFAR10)
    mean, std = torch.tensor(CIFAR10.mean), torch.tensor(CIFAR10.std)
    images = normalise(torch.from_numpy(found.images), mean, std)
    labels = torch.from_numpy(found.labels)
    network = build_network(TINY, seed=0)
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        rows = torch.randperm(len(labels), generator=generator)[:64]
        optimiser.zero_grad()
        cross_entropy(network(images[rows]), labels[rows]).backward()
        optimiser.step()
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(Checkpoint(TINY, network.state_dict()), path)
    return path


@pytest.fixture
def plan_for(checkpoint, data, tmp_path):
    options = {
        "model": TINY,
        "checkpoint": checkpoint,
        "repository": tmp_path / "repository",
        "backend": "onnxruntime",
        "precision": "int8",
        "max_batch_size": 16,
        "data": str(data),
    }
    return lambda **changes: plan_export(**options | changes)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_int8_is_calibrated_on_training_images_and_judged_on_test_images(plan_for, backend):
    options = Int8Options(calibration_images=64, calibration_method="minmax")
    done = export(plan_for(backend=backend, int8=options))
    facts = read_manifest(done.folder).quantisation
    assert facts.calibrated_on == "64 train images of tiny-cifar"
    assert facts.representative is True
    judged_on = "top-1 accuracy on 100 test images of tiny-cifar"
    assert facts.judged_on.startswith(judged_on)
    assert len(facts.layers) == CONVOLUTIONS
    assert facts.kept == ()
    verification = done.manifest.verification
    rows = {(row.precision, row.batch_size) for row in verification.comparisons}
    assert rows >= {("fp32", 8), ("int8", 1), ("int8", 16)}
    checks = {check.name: check.found for check in verification.checks}
    assert checks["computes in the precision asked for"] == (
        f"matrix products: {CONVOLUTIONS} in int8"
    )
    assert verify_version(done.folder).passed


def test_layers_that_cost_too_much_stay_in_the_higher_precision(plan_for, monkeypatch):
    """A runtime that errs in one layer, if that is in int8, stands for a layer that cannot be."""
    harmful = b"block2/layer1/conv2/weight/quantised"
    honest = OnnxRuntime.load

    def faulty(self, artefact, precision):
        infer = honest(self, artefact, precision)
        if harmful not in artefact.read_bytes():
            return infer
        return lambda images: infer(np.zeros_like(images))

    monkeypatch.setattr(OnnxRuntime, "load", faulty)
    done = export(plan_for())
    facts = done.manifest.quantisation
    assert facts.kept == ("block2/layer1/conv2",)
    assert len(facts.layers) == CONVOLUTIONS - 1
    assert len(facts.sensitivity) == CONVOLUTIONS
    assert max(facts.sensitivity, key=facts.sensitivity.get) == "block2/layer1/conv2"
    assert harmful not in (done.folder / "model.onnx").read_bytes()


def test_without_data_photographs_calibrate_and_the_manifest_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("DELUGESERVE_DATA", raising=False)
    spec = dataclasses.replace(TINY, name="untrained")
    options = Int8Options(calibration_images=20)
    plan = plan_export(
        spec,
        repository=tmp_path / "repository",
        backend="onnxruntime",
        precision="int8",
        max_batch_size=4,
        int8=options,
    )
    facts = export(plan).manifest.quantisation
    assert facts.representative is False
    assert facts.calibrated_on == "20 crops of photographs"
    assert facts.judged_on.startswith("disagreement with the network on ")
    assert facts.max_drop is None, "an untrained network has no accuracy to lose"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (Int8Options(calibration_images=0), UsageError, "--calibration-images"),
        (Int8Options(max_drop=-1), UsageError, "--max-drop"),
        (Int8Options(max_drop=float("nan")), UsageError, "--max-drop"),
        (Int8Options(calibration_method="entrpy"), UnknownNameError, "entrpy"),
        (Int8Options("nowhere/at-all.parquet"), DatasetError, "nowhere"),
    ],
)
def test_int8_that_cannot_be_is_refused(plan_for, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        export(plan_for(int8=options))
    assert not (tmp_path / "repository" / "tiny").exists()


def test_calibration_images_of_another_size_are_resized(data):
    larger = dataclasses.replace(CIFAR10, image_size=48, resize_size=48)
    images, _ = sample_images(larger, 4, str(data), split="train")
    assert images.shape == (4, 48, 48, 3)


def test_labels_of_other_classes_do_not_judge(plan_for, checkpoint, tmp_path):
    loaded = load_checkpoint(checkpoint, TINY)
    names = ("ant", *loaded.class_names[1:])
    save_checkpoint(Checkpoint(TINY.with_classes(names), loaded.state), tmp_path / "x.safetensors")
    with pytest.raises(DatasetError) as caught:
        export(plan_for(checkpoint=tmp_path / "x.safetensors"))
    assert caught.value.expected == names
    assert caught.value.missing == ("ant",)


def test_an_empty_calibration_set_is_refused(plan_for, tmp_path, write_tiny_cifar):
    empty = write_tiny_cifar(tmp_path / "empty", train=0, test=10)
    with pytest.raises(DatasetError) as caught:
        export(plan_for(int8=Int8Options(calibration_data=str(empty))))
    assert str(caught.value.path).startswith(str(empty))


def test_calibration_without_int8_is_refused(plan_for):
    with pytest.raises(UsageError, match="--max-drop"):
        export(plan_for(precision="fp32", int8=Int8Options(max_drop=1)))


def test_a_budget_that_cannot_be_met_publishes_nothing(plan_for, monkeypatch, tmp_path):
    honest = OnnxRuntime.load

    def faulty(self, artefact, precision):
        infer = honest(self, artefact, precision)
        return lambda images: infer(np.zeros_like(images))

    monkeypatch.setattr(OnnxRuntime, "load", faulty)
    with pytest.raises(ParityError, match="without int8"):
        export(plan_for())
    assert not (tmp_path / "repository" / "tiny").exists()


def test_a_plan_is_judged_by_its_graph(plan_for):
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: delugeserve[tensorrt-rtx]")
    manifest = export(plan_for(backend="tensorrt-rtx")).manifest
    assert "by ONNX Runtime" in manifest.quantisation.judged_on
    assert manifest.quantisation.activations == "int8"
    assert manifest.engine.precisions == {"int8": CONVOLUTIONS, "fp16": 1}, "the classifier's"
    if not hardware.usable_gpus():
        assert manifest.verification.status == "built, not run"
        graph = manifest.verification.checks[-1]
        assert graph.name == "ONNX graph in int8, by ONNX Runtime"
        assert graph.passed
