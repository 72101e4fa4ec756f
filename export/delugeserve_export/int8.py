"""The stage of an export that makes its graph int8: calibrate, choose the layers, quantise them."""

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
from delugeserve_export.calibration import METHODS, collect_histograms, threshold
from delugeserve_export.mixed_precision import OnStep, choose_layers, loss_of
from delugeserve_export.quantisation import Range, insert_qdq, quantisable_layers
from delugeserve_export.samples import sample_images
from delugeserve_export.source import Source

_JUDGING_FLOPS = 400e9
_MOST_IMAGES = 2000
_FEWEST_IMAGES = 16
_FEW_IMAGES = 250
"""A layer alone is judged by its logits, which tell more of an image than its class does."""
_BATCH = 250


@dataclass(frozen=True)
class Int8Options:
    """How a network is quantised.

    Attributes:
        calibration_data: a data set with a training split; None takes the one to verify on, or
            else crops of photographs.
        calibration_images: how many at most.
        calibration_method: ``entropy``, ``minmax`` or ``percentile``.
        max_drop: points of top-1 that quantising may cost.
    """

    calibration_data: str | None = None
    calibration_images: int = 512
    calibration_method: str = "entropy"
    max_drop: float = 0.5

    def check(self) -> CalibrationMethod:
        """Return the method, if all is well.

        Raises:
            UsageError: an option has no meaning.
        """
        if self.calibration_images < 1:
            raise UsageError("Calibration needs an image.", "Say --calibration-images 512.")
        if not self.max_drop >= 0:
            raise UsageError(
                f"The drop that is allowed is at least 0 points, not {self.max_drop:g}.",
                "Say --max-drop 0.5.",
            )
        for method in METHODS:
            if self.calibration_method == method:
                return method
        raise UnknownNameError("calibration method", self.calibration_method, METHODS)


def quantise(
    graph: bytes,
    served: bytes,
    backend: Backend,
    source: Source,
    data: str | None,
    options: Int8Options,
    on_step: OnStep = lambda _: None,
) -> tuple[bytes, Quantisation]:
    """Quantise a graph as far as the budget allows.

    Args:
        graph: serialised ONNX model in fp32, on which ranges and layers are found.
        served: the same in the types in which what is not quantised is to be computed.
        backend: what the graph is for; builds and runs what is judged, if it can do so here.
        source: the network.
        data: a data set whose test split judges; None takes crops of photographs.
        options: how.
        on_step: told what is being done.

    Returns:
        ``served``, quantised, and what the manifest says of it.

    Raises:
        UsageError: an option has no meaning, the images cannot be read, or there is no room for
            temporary files.
        ParityError: the budget does not hold, whatever is quantised.
    """
    method = options.check()
    spec = source.spec
    calibration_data = options.calibration_data or data
    images, calibrated_on = sample_images(
        spec.dataset, options.calibration_images, calibration_data, split="train"
    )
    layers = quantisable_layers(graph)
    ranges = _calibrate(graph, layers, images, method, backend, on_step)

    judging, labels, judged_on = _judging_images(source, data)
    on_step("asking the network")
    reference = _in_batches(network_classifier(source.network, spec.dataset), judging)
    # A plan is built slowly and may not run here; its graph in fp32 says the same anywhere.
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

    # The classes of an untrained network are a toss-up: there is nothing to lose.
    max_drop = options.max_drop if source.trained else float("inf")
    choice = choose_layers(list(layers), measure, sensitivity_of, max_drop, on_step)
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
    on_step: OnStep,
) -> dict[str, Range]:
    done = 0

    def advance(number: int) -> None:
        nonlocal done
        done += number
        on_step(f"calibrating: {done} of {len(images)} images")

    tensors = list(dict.fromkeys(tensor for group in layers.values() for tensor in group))
    histograms = collect_histograms(graph, tensors, images, advance)
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
        images, what = sample_images(spec.dataset, number)
        return images, None, f"disagreement with the network on {number} {what}"
    found = load_images(data, "test", spec.dataset, limit=number)
    found.require_classes(source.class_names, f"The network '{spec.name}'")
    what = f"top-1 accuracy on {len(found)} test images of {Path(data).name}"
    return found.images, found.labels, what


def _in_batches(classify: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.concatenate(
        [classify(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    )
