"""What each step from the engine to a client's result adds to the time of a single image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

STEPS = (
    "engine in process",
    "Python backend",
    "scheduler",
    "gRPC",
    "front",
    "client",
    "decode",
)
"""The steps, from the inside out. Each figure includes those before it."""


@dataclass(frozen=True)
class Step:
    """One step of the waterfall.

    Attributes:
        name: what is included up to here.
        total_ms: time of an image up to and with this step, in milliseconds.
        added_ms: how much of it this step adds; negative where the measurement is not exact.
    """

    name: str
    total_ms: float
    added_ms: float


def waterfall(rounds: Mapping[str, list[float]]) -> tuple[Step, ...]:
    """Return the steps from the times of several rounds.

    Args:
        rounds: for each of :data:`STEPS` that was measured, the mean time of an image in each
            round, in milliseconds, with all steps before it. The median of the rounds counts: a
            round that something disturbed does not.
    """
    steps: list[Step] = []
    before = 0.0
    for name in STEPS:
        if rounds.get(name):
            total = median(rounds[name])
            steps.append(Step(name, total, total - before))
            before = total
    return tuple(steps)
