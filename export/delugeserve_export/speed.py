"""Speed of artefacts on this machine: enough to compare precisions.

The scripts in ``benchmarks/`` measure figures to publish.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.interface import Infer

Name = TypeVar("Name", bound=str)

_ROUNDS = 3
_SECONDS = 0.1
"""Shortest time that an artefact runs for in a round."""


def measure_speed(
    contestants: Mapping[Name, Infer], images: NDArray[np.uint8], sizes: Sequence[int]
) -> dict[str, dict[int, float]]:
    """Time artefacts in turn.

    Args:
        contestants: artefacts by name.
        images: uint8 ``[K, H, W, 3]``, repeated to fill a batch.
        sizes: batch sizes.

    Returns:
        Median milliseconds of a batch, by name and batch size.
    """
    samples: dict[str, dict[int, list[float]]] = {
        name: {size: [] for size in sizes} for name in contestants
    }
    for size in sizes:
        batch = fill_batch(images, size)
        for infer in contestants.values():
            infer(batch)  # the first call of a size allocates, and may compile
        # In turn, so that a machine that slows down slows all of them.
        for _ in range(_ROUNDS):
            for name, infer in contestants.items():
                samples[name][size].append(_time(infer, batch))
    return {
        name: {size: round(1000 * statistics.median(times), 4) for size, times in by_size.items()}
        for name, by_size in samples.items()
    }


def fill_batch(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return a batch of ``size`` images, repeated if there are fewer."""
    return np.ascontiguousarray(images[np.arange(size) % len(images)])


def _time(infer: Infer, batch: NDArray[np.uint8]) -> float:
    start = time.perf_counter()
    calls = 0
    while calls == 0 or time.perf_counter() - start < _SECONDS:
        infer(batch)
        calls += 1
    return (time.perf_counter() - start) / calls
