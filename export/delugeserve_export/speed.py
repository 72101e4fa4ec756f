"""Speed of artefacts on this machine: enough to compare precisions.

The scripts in ``benchmarks/`` measure figures to publish.
"""

from __future__ import annotations

import math
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
        Milliseconds of a batch, by name and batch size: the shortest time, since longer ones tell
        what else the machine does.
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
        name: {size: round(1000 * min(times), 4) for size, times in by_size.items()}
        for name, by_size in samples.items()
    }


def fill_batch(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return a batch of ``size`` images, repeated if there are fewer."""
    return np.ascontiguousarray(images[np.arange(size) % len(images)])


def _time(infer: Infer, batch: NDArray[np.uint8]) -> float:
    """Return the shortest time of a call, in seconds."""
    start = now = time.perf_counter()
    shortest = math.inf
    while now - start < _SECONDS:
        before = now
        infer(batch)
        now = time.perf_counter()
        shortest = min(shortest, now - before)
    return shortest
