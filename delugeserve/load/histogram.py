"""Latencies as HdrHistograms, which merge and keep three digits of every percentile."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from delugeserve.system.imports import require

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)

_LOWEST, _HIGHEST, _DIGITS = 1, 3_600_000_000, 3  # microseconds


def histogram_of(seconds: npt.NDArray[np.float64]) -> Any:
    """Return a histogram, in microseconds, of latencies in seconds.

    Raises:
        MissingExtraError: hdrhistogram is not installed.
    """
    histogram = _empty()
    values, counts = np.unique(np.rint(seconds * 1e6).astype(np.int64), return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        histogram.record_value(min(max(value, _LOWEST), _HIGHEST), count)
    return histogram


def merge(encoded: Iterable[str]) -> Any:
    """Return the sum of histograms that were encoded with :func:`encode`."""
    histogram = _empty()
    for text in encoded:
        histogram.decode_and_add(text.encode("ascii"))
    return histogram


def encode(histogram: Any) -> str:
    """Return a histogram in the compressed text form that all implementations share."""
    text: bytes = histogram.encode()
    return text.decode("ascii")


def percentiles_ms(histogram: Any, percentiles: Sequence[float] = PERCENTILES) -> dict[str, float]:
    """Return latencies in milliseconds by percentile, such as ``{"99.9": 8.1}``.

    The percentile ``p`` of ``n`` latencies is the least that ``p`` % of them do not exceed: of 100
    latencies, the 99.9th percentile is the largest. The library would round down to the second.
    """
    count = histogram.get_total_count()
    return {
        f"{percentile:g}": histogram.get_value_at_percentile(
            100 * math.ceil(round(percentile / 100 * count, 6)) / max(count, 1)
        )
        / 1e3
        for percentile in percentiles
    }


def _empty() -> Any:
    return require("hdrh.histogram", "benchmark").HdrHistogram(_LOWEST, _HIGHEST, _DIGITS)
