"""The settings with which a server runs a model fastest on this machine, found by trying them.

:func:`plan_tuning` says what would be tried, :func:`tune` tries it under load, checks the best
again, and writes it.
"""

from __future__ import annotations

from delugeserve.tuning.measure import Measure, Measurement, Objective
from delugeserve.tuning.plan import TuningPlan, plan_tuning
from delugeserve.tuning.space import Candidate, Space
from delugeserve.tuning.study import Trial
from delugeserve.tuning.tune import Check, TuningResult, tune

__all__ = [
    "Candidate",
    "Check",
    "Measure",
    "Measurement",
    "Objective",
    "Space",
    "Trial",
    "TuningPlan",
    "TuningResult",
    "plan_tuning",
    "tune",
]
