"""The quantise stage of an export: calibrate, choose the layers, insert Q/DQ nodes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.records import CalibrationMethod, Loss, Quantisation
from delugeserve.data.datasets import load_images
from delugeserve.errors import UnknownNameError, UsageError
from delugeserve.networks.classifier import network_classifier
from delugeserve.networks.flops import count
from delugeserve.runtimes import BACKENDS
from delugeserve.runtimes.base import Backend
from delugeserve.system.files import temporary_folder
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve_export.calibration import METHODS, collect_histograms, threshold
from delugeserve_export.mixed_precision import choose_layers, loss_of
from delugeserve_export.quantisation import Range, insert_qdq, quantisable_layers
from delugeserve_export.samples import sample_images
from delugeserve_export.source import Source

_JUDGING_FLOPS = 400e9
_MOST_IMAGES = 2000
_FEWEST_IMAGES = 16
_FEW_IMAGES = 250
"""Images for a layer alone, which is judged by logits: they tell more than the class does."""
_BATCH = 250


@dataclass(frozen=True)
class Int8Options:
    """How a network is quantised.

    Attributes:
        calibration_data: a data set with a training split; None for the one to verify on, or else
            crops of photographs.
        calibration_images: most images to calibrate on.
        calibration_method: how thresholds are chosen.
        max_drop: percentage points of top-1 that int8 may cost.
    """

    calibration_data: str | None = None
    calibration_images: int = 512
    calibration_method: CalibrationMethod = "entropy"
    max_drop: float = 0.5

    def check(self) -> None:
        """Check the values.

        Raises:
            UsageError: one makes no sense.
        """
        if self.calibration_images < 1:
            raise UsageError(
                f"--calibration-images is {self.calibration_images}, but calibration needs at "
                "least 1 image.",
                "Use --calibration-images 512.",
            )
        if not self.max_drop >= 0:
            raise UsageError(
                f"--max-drop is {self.max_drop:g}, but a drop is at least 0 points.",
                "Use --max-drop 0.5.",
            )
        if self.calibration_method not in METHODS:
            raise UnknownNameError("calibration method", self.calibration_method, METHODS)


def quantise(
    graph: bytes,
    served: bytes,
    backend: Backend,
    source: Source,
    data: str | None,
    options: Int8Options,
    progress: Progress = NO_PROGRESS,
) -> tuple[bytes, Quantisation]:
    """Quantise as many layers of a graph as the budget allows.

    Args:
        graph: serialised ONNX model in fp32, to calibrate and to choose the layers on.
        served: the same in the types that the layers in the higher precision compute in.
        backend: what the graph is for. It also runs the candidates, unless it builds plans.
        source: the network.
        data: a data set whose test split the drop is measured on; None for crops of photographs.
        options: how to quantise.
        progress: receives a stage for each step.

    Returns:
        ``served``, quantised, and the record for the manifest.

    Raises:
        UsageError: an option makes no sense, the images cannot be read, or there is no room for
            temporary files.
        ParityError: the budget does not hold, whatever is quantised.
    """
    options.check()
    spec, method = source.spec, options.calibration_method
    calibration_data = options.calibration_data or data
    images, calibrated_on = sample_images(
        spec.task, options.calibration_images, calibration_data, split="train"
    )
    layers = quantisable_layers(graph)
    ranges = _calibrate(graph, layers, images, method, backend, progress)

    judging, labels, judged_on = _judging_images(source, data)
    progress.stage("quantise: network's logits")
    reference = _in_batches(network_classifier(source.network, spec.task), judging)
    # A plan is slow to build and may not run here; its graph gives the same result on the CPU.
    judge = BACKENDS["onnxruntime"] if backend.typed_graph else backend

    def logits_of(layers: Collection[str], images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with temporary_folder() as folder:
            candidate = insert_qdq(graph, ranges, layers, backend.integers)
            infer = judge.load(judge.build(candidate, folder), "int8")
            return _in_batches(lambda batch: infer(batch)[0], images)

    def measure(layers: Collection[str]) -> Loss:
        return loss_of(logits_of(layers, judging), reference, labels)

    def sensitivity_of(layer: str) -> float:
        few = judging[:_FEW_IMAGES]
        return loss_of(logits_of([layer], few), reference[: len(few)], None).error

    # An untrained network has no accuracy to lose.
    max_drop = options.max_drop if source.trained else float("inf")
    choice = choose_layers(list(layers), measure, sensitivity_of, max_drop, progress)
    facts = Quantisation(
        method=method,
        calibrated_on=f"{len(images)} {calibrated_on}",
        representative=calibration_data is not None,
        activations=backend.integers,
        max_drop=options.max_drop if source.trained else None,
        judged_on=f"{judged_on}, by {judge.title}",
        layers=choice.layers,
        kept=choice.kept,
        loss=choice.loss,
        sensitivity=choice.sensitivity,
    )
    return insert_qdq(served, ranges, choice.layers, backend.integers), facts


def _calibrate(
    graph: bytes,
    layers: dict[str, tuple[str, ...]],
    images: NDArray[np.uint8],
    method: CalibrationMethod,
    backend: Backend,
    progress: Progress,
) -> dict[str, Range]:
    progress.stage("quantise: calibrate", len(images))
    tensors = list(dict.fromkeys(tensor for group in layers.values() for tensor in group))
    histograms = collect_histograms(graph, tensors, images, progress)
    return {
        name: Range(
            threshold(histogram, method, levels=_levels(backend, signed=histogram.signed)),
            histogram.signed,
        )
        for name, histogram in histograms.items()
    }


def _levels(backend: Backend, *, signed: bool) -> int:
    return 128 if signed or backend.integers == "int8" else 256


def _judging_images(
    source: Source, data: str | None
) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None, str]:
    spec = source.spec
    affordable = int(_JUDGING_FLOPS / count(spec).flops)
    number = min(max(affordable, _FEWEST_IMAGES), _MOST_IMAGES)
    if data is None:
        images, what = sample_images(spec.task, number)
        return images, None, f"disagreement with the network on {number} {what}"
    found = load_images(data, "test", spec.task, limit=number)
    found.require_classes(source.spec.task.class_names, f"The network '{spec.name}'")
    what = f"top-1 accuracy on {len(found)} test images of {Path(data).name}"
    return found.images, found.labels, what


def _in_batches(classify: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.concatenate(
        [classify(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    )
