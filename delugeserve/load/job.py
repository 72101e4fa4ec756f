"""What a test is to do, and what its process saw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from delugeserve.load.scenarios import Scenario, Settings
from delugeserve.load.senders.base import OpenSender
from delugeserve.load.statistics import ServerSplit
from delugeserve.load.target import Target


@dataclass(frozen=True)
class Job:
    """What one test is to do.

    Attributes:
        target: what to send.
        settings: how.
        open_sender: opens the sender.
        folder: an existing folder for LoadGen's log files.
    """

    target: Target
    settings: Settings
    open_sender: OpenSender
    folder: Path


@dataclass(frozen=True)
class Observed:
    """What the process of a test saw beside LoadGen's log files.

    Attributes:
        answers: requests that were answered.
        errors: requests that failed.
        first_error: what the first of them said.
        checked: requests whose answer was compared.
        wrong: how many of them differed.
        cpu_seconds: CPU time of the process during the test.
        seconds: how long the test took.
        server: where the server spent the time; None where it does not tell.
        latencies: of a closed loop, latency of each answered request in seconds; LoadGen's are in
            its log files.
    """

    answers: int
    errors: int
    first_error: str | None
    checked: int
    wrong: int
    cpu_seconds: float
    seconds: float
    server: ServerSplit | None = None
    latencies: npt.NDArray[np.float64] | None = None


def images_per_query(target: Target, settings: Settings) -> int:
    """Return how many images one query of a scenario has."""
    if settings.scenario is Scenario.MULTI_STREAM:
        return settings.streams
    return 1 if settings.scenario is Scenario.OFFLINE else target.batch_size
