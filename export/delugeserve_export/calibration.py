"""Calibration: how large the values of each quantised tensor are on real images.

int8 is symmetric here, so only magnitudes count. They are collected in a histogram, from which a
method takes the threshold; larger magnitudes are clipped.

- ``minmax`` takes the largest magnitude, and clips nothing.
- ``percentile`` clips one value in ten thousand.
- ``entropy`` takes the threshold whose quantised distribution has the least Kullback-Leibler
  divergence from the original (Migacz, "8-bit inference with TensorRT", GTC 2017).

Zeros are not counted. Zero is exact in symmetric int8 whatever the threshold, and after a ReLU
there are so many that they would outweigh the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from delugeserve.artifacts.interface import INPUT
from delugeserve.artifacts.records import CalibrationMethod
from delugeserve.errors import EvaluationError
from delugeserve.runtimes.onnxruntime import open_session
from delugeserve.system.progress import NO_PROGRESS, Progress

METHODS: tuple[CalibrationMethod, ...] = get_args(CalibrationMethod)

_BINS = 4096
_PERCENTILE = 99.99
_CANDIDATES = 240
_BATCH = 16
_MOST_VALUES = 1 << 16
"""Values of a tensor that are counted per batch; the maximum is taken over all."""


@dataclass
class Histogram:
    """Magnitudes of a tensor's values, in equal bins from 0 to a limit that grows as needed.

    Attributes:
        maximum: the largest magnitude.
        signed: whether there was a value below zero.
        limit: upper edge of the last bin; at least half of the bins are below the maximum.
        counts: of values other than zero, int64 ``[bins]``.
    """

    maximum: float = 0.0
    signed: bool = False
    limit: float = 0.0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BINS, np.int64))

    def add(self, values: NDArray[np.float32]) -> None:
        """Count the values of a tensor of any shape.

        Raises:
            EvaluationError: a value is not finite.
        """
        low, high = float(values.min()), float(values.max())
        largest = max(-low, high)
        if not np.isfinite(largest):
            raise EvaluationError(
                "The network's activations are not finite on the calibration images.",
                "The training diverged, or the weights are damaged: export another checkpoint.",
            )
        self.signed |= low < 0
        self.maximum = max(self.maximum, largest)
        if not largest:
            return
        self.limit = self.limit or largest
        while self.limit < largest:
            self._double()
        # An odd step, so that every column of the images is sampled.
        step = values.size // _MOST_VALUES | 1
        magnitudes = np.abs(values.reshape(-1)[::step])
        # Divided first: the reciprocal of the smallest numbers is too large for float32.
        bins = magnitudes[magnitudes > 0] / np.float32(self.limit) * np.float32(_BINS)
        self.counts += np.bincount(np.minimum(bins.astype(np.int64), _BINS - 1), minlength=_BINS)

    def _double(self) -> None:
        merged = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = np.concatenate([merged, np.zeros_like(merged)])
        self.limit *= 2


def collect_histograms(
    graph: bytes,
    tensors: Sequence[str],
    images: NDArray[np.uint8],
    progress: Progress = NO_PROGRESS,
) -> dict[str, Histogram]:
    """Run a graph in fp32 in ONNX Runtime, and collect histograms of some of its tensors.

    Args:
        graph: serialised ONNX model without Q/DQ.
        tensors: names of its tensors.
        images: uint8 ``[N, H, W, 3]``.
        progress: advances by the images of each batch.

    Raises:
        EvaluationError: a value is not finite.
        MissingExtraError: ONNX Runtime is not installed.
    """
    model = onnx.load_from_string(graph)
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors
    )
    session = open_session(model.SerializeToString())
    histograms = {name: Histogram() for name in tensors}
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        values: list[Any] = session.run(list(tensors), {INPUT: batch})
        for histogram, value in zip(histograms.values(), values, strict=True):
            histogram.add(value)
        progress.advance(len(batch))
    return histograms


def threshold(histogram: Histogram, method: CalibrationMethod, *, levels: int = 128) -> float:
    """Return the magnitude that becomes the largest integer.

    Args:
        histogram: of the tensor.
        method: how it is chosen.
        levels: number of magnitudes that the integer type has.

    Returns:
        A number above 0 and not above the largest magnitude; 1 for a tensor of zeros.
    """
    if not histogram.maximum:
        return 1.0
    if method == "minmax":
        return histogram.maximum
    if method == "percentile":
        return percentile(histogram, _PERCENTILE)
    return _least_divergence(histogram, levels)


def percentile(histogram: Histogram, percent: float) -> float:
    """Return the magnitude that ``percent`` of the non-zero values do not exceed."""
    below = np.cumsum(histogram.counts)
    bin_ = int(np.searchsorted(below, below[-1] * percent / 100))
    return _edge(histogram, bin_ + 1)


def _least_divergence(histogram: Histogram, levels: int) -> float:
    used = int(np.flatnonzero(histogram.counts)[-1]) + 1
    candidates = np.unique(np.linspace(min(levels, used), used, _CANDIDATES).astype(int))
    divergences = [_divergence(histogram.counts, int(bins), levels) for bins in candidates]
    return _edge(histogram, int(candidates[int(np.argmin(divergences))]))


def _divergence(counts: NDArray[np.int64], bins: int, levels: int) -> float:
    """Kullback-Leibler divergence of the values, clipped to so many bins, from their rounding."""
    clipped = counts[:bins].astype(np.float64)
    level = np.arange(bins) * min(levels, bins) // bins
    mass = np.bincount(level, weights=clipped)
    clipped[-1] += counts[bins:].sum()
    some = clipped > 0
    # A level's mass is spread evenly over its bins that are not empty.
    rounded = np.where(some, (mass / np.maximum(np.bincount(level, weights=some), 1))[level], 0)
    if (rounded[some] == 0).any():
        return np.inf
    p, q = clipped[some] / clipped.sum(), rounded[some] / rounded.sum()
    return float(np.sum(p * np.log(p / q)))


def _edge(histogram: Histogram, bins: int) -> float:
    return min(histogram.limit * bins / _BINS, histogram.maximum)
