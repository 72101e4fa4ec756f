"""Tune a model: search, check the best once more, write it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from delugeserve.artifacts.configuring import configure
from delugeserve.artifacts.promotion import promote
from delugeserve.artifacts.typed_json import to_json
from delugeserve.errors import Failure
from delugeserve.load import BudgetError
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve.tuning.measure import Measure, Measurement, ServerMeasure
from delugeserve.tuning.plan import TuningPlan
from delugeserve.tuning.study import Trial, describe, open_study

_log = logging.getLogger(__name__)

_MARGIN = 0.03
"""What the best must be ahead by, when both are measured again, to be written."""


@dataclass(frozen=True)
class TuningResult:
    """The outcome of a tuning.

    Attributes:
        plan: what was tried.
        trials: every trial, in order.
        before: the trial of the settings that the model had.
        best: the trial with the highest score.
        before_again: what the old settings reached at the end; None if they are the best.
        best_again: what the best settings reached at the end; None if they are the old ones.
        written: the best settings were written.
    """

    plan: TuningPlan
    trials: tuple[Trial, ...]
    before: Trial
    best: Trial
    before_again: Measurement | None
    best_again: Measurement | None
    written: bool

    @property
    def pareto(self) -> tuple[Trial, ...]:
        """The trials that no other one beats in both throughput and latency; see :func:`pareto`."""
        return pareto(self.trials)

    @property
    def ahead(self) -> bool:
        """Whether the best settings were still ahead when they were measured again."""
        again, before = self.best_again, self.before_again
        if again is None or before is None:
            return False
        return again.images_per_s > (1 + _MARGIN) * before.images_per_s

    def as_json(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {
            "model": self.plan.model,
            **to_json(self.plan.load),
            "objective": self.plan.load.objective.value,
            "machine": self.plan.machine,
            "folder": str(self.plan.output),
            "before": to_json(self.before),
            "best": to_json(self.best),
            "before_again": to_json(self.before_again),
            "best_again": to_json(self.best_again),
            "ahead": self.ahead,
            "written": self.written,
            "pareto": [trial.number for trial in self.pareto],
            "trials": [to_json(trial) for trial in self.trials],
        }


def tune(
    plan: TuningPlan,
    *,
    measure: Measure | None = None,
    write: bool = True,
    progress: Progress = NO_PROGRESS,
) -> TuningResult:
    """Search for the best settings of a model, and write them if they hold.

    Every trial is kept in the plan's folder; after an interruption, the same plan goes on there.

    Args:
        plan: what to try.
        measure: measures a candidate; None serves it and puts it under load.
        write: write the best settings into ``config.pbtxt``, and promote their version.
        progress: receives the seconds of each load test.

    Raises:
        BusyOutputError: another process works on the study.
        ResumeError: the study was begun with other options.
        BudgetError: no candidate keeps the latency budget.
        Failure: no candidate could be measured.
    """
    measure = measure or ServerMeasure(plan.repository, plan.model, plan.load, front=plan.front)
    with open_study(plan) as study:
        study.search(measure, progress)
        trials, best = study.trials, study.best
        if best is None:
            raise _nothing_keeps(plan, trials)
        before = trials[0]
        if best.number == before.number:
            return TuningResult(plan, trials, before, best, None, None, False)
        _log.info("check once more: the settings before, then the best")
        before_again = _again(before, measure, progress)
        best_again = _again(best, measure, progress)
        result = TuningResult(plan, trials, before, best, before_again, best_again, False)
        if result.ahead and write:
            if best.candidate.version != before.candidate.version:
                promote(plan.repository, plan.model, best.candidate.version)
            configure(plan.repository, plan.model, best.candidate.serving())
            _log.info("written: %s", describe(best.candidate, plan))
            result = dataclasses.replace(result, written=True)
        return result


def _nothing_keeps(plan: TuningPlan, trials: Sequence[Trial]) -> Failure:
    budget = plan.load.latency_budget * 1e3
    found = [one.measurement.latency_ms for one in trials if one.measurement]
    if not found:
        return Failure(
            f"None of {len(trials)} trials could be measured. The last one failed: "
            f"{trials[-1].error}",
            "Check with: delugeserve doctor",
        )
    nearest = min(found)
    return BudgetError(
        f"No settings of '{plan.model}' keep {budget:g} ms; the nearest was {nearest:.3g} ms.",
        f"Use --latency-budget {float(f'{nearest * 1.25:.2g}'):g}ms or more, or a smaller or "
        "faster model.",
        budget_ms=budget,
        nearest_ms=nearest,
    )


def _again(trial: Trial, measure: Measure, progress: Progress) -> Measurement:
    return measure(trial.candidate, trial.score or None, progress)


def pareto(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Return the trials that no other one beats in both throughput and latency.

    The latency is that of a request without others.
    """
    points = [
        (one.score, one.measurement.alone_ms, one)
        for one in trials
        if one.score > 0 and one.measurement and one.measurement.alone_ms is not None
    ]
    kept = []
    for score, alone, trial in points:
        beaten = any(
            other >= score and faster <= alone and (other, faster) != (score, alone)
            for other, faster, _ in points
        )
        if not beaten:
            kept.append(trial)
    return tuple(kept)
