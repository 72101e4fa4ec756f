"""Tune a model: search, check the best once more, write it."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from delugeserve.artifacts.configuring import configure
from delugeserve.artifacts.promotion import promote
from delugeserve.artifacts.typed_json import to_json
from delugeserve.errors import Failure
from delugeserve.load import BudgetError
from delugeserve.load.budget import larger_budget
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve.tuning.measure import Measure, ServerMeasure
from delugeserve.tuning.plan import TuningPlan, settings_of
from delugeserve.tuning.space import Candidate
from delugeserve.tuning.study import Trial, attempt, describe, open_study

_log = logging.getLogger(__name__)

_CHECKS = 2
"""How often the settings before and the best ones are measured again, if the first check holds."""


@dataclass(frozen=True)
class Check:
    """The settings before and the best ones, measured again one after the other.

    Attributes:
        before: the settings that the model had.
        best: those of the best trial.
    """

    before: Trial
    best: Trial

    @property
    def gain(self) -> float:
        """The share by which the best is ahead; infinite if the settings before reached nothing."""
        return gain(self.before, self.best)


@dataclass(frozen=True)
class TuningResult:
    """The outcome of a tuning.

    Attributes:
        plan: what was tried.
        trials: every trial, in order.
        before: the trial of the settings that the model had.
        best: the trial with the highest score.
        checks: what both reached at the end; empty if the best was not ahead.
        written: the best settings were written.
    """

    plan: TuningPlan
    trials: tuple[Trial, ...]
    before: Trial
    best: Trial
    checks: tuple[Check, ...] = ()
    written: bool = False

    @property
    def pareto(self) -> tuple[Trial, ...]:
        """The trials that no other one beats in both throughput and latency; see :func:`pareto`."""
        return pareto(self.trials)

    @property
    def resolution(self) -> float:
        """The share by which the best must be ahead."""
        return self.plan.load.objective.resolution

    @property
    def ahead(self) -> bool:
        """Whether the best settings were ahead in every check, by more than can be resolved."""
        return bool(self.checks) and all(
            one.gain > self.resolution
            # A check in which the settings before fail compares nothing, unless they always do.
            and (one.before.score > 0 or not self.before.score)
            for one in self.checks
        )

    def as_json(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {
            "model": self.plan.model,
            **to_json(self.plan.load),
            "objective": self.plan.load.objective.value,
            "resolution": self.resolution,
            "machine": self.plan.machine,
            "folder": str(self.plan.output),
            "before": to_json(self.before),
            "best": to_json(self.best),
            "checks": to_json(self.checks),
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
        Failure: no candidate could be measured, or the model's settings were changed meanwhile.
    """
    measure = measure or ServerMeasure(plan.repository, plan.model, plan.load, front=plan.front)
    with open_study(plan) as study:
        study.search(measure, progress)
        before, best = study.before, study.best
        if before is None or best is None:
            raise _nothing_keeps(plan, study.trials)
        result = TuningResult(plan, study.trials, before, best)
        while len(result.checks) < _CHECKS and gain(before, best) > result.resolution:
            check = _check(result, len(result.checks), measure, progress)
            result = dataclasses.replace(result, checks=(*result.checks, check))
            if not result.ahead:
                break
        if result.ahead and write:
            _write(plan, best.candidate)
            result = dataclasses.replace(result, written=True)
        return result


def _check(result: TuningResult, number: int, measure: Measure, progress: Progress) -> Check:
    """Measure the settings before and the best again, and the other way round the next time."""
    found = {}
    for trial in (result.before, result.best)[:: 1 - 2 * (number % 2)]:
        name = "before" if trial is result.before else "best"
        _log.info("check %d of %d: the settings %s", number + 1, _CHECKS, name)
        found[name] = attempt(trial.number, trial.candidate, trial.score or None, measure, progress)
    return Check(**found)


def _write(plan: TuningPlan, best: Candidate) -> None:
    """Write settings into ``config.pbtxt``, and promote their version.

    Raises:
        Failure: the model has other settings than when the tuning began.
    """
    if settings_of(plan.repository, plan.model, plan.before.replicas) != plan.before:
        raise Failure(
            f"The settings of '{plan.model}' were changed while it was tuned. Nothing was written.",
            "Run the same command again. It compares with the new settings.",
        )
    if best.version != plan.before.version:
        promote(plan.repository, plan.model, best.version)
    configure(plan.repository, plan.model, best.serving())
    _log.info("written: %s", describe(best, plan.space))


def _nothing_keeps(plan: TuningPlan, trials: Sequence[Trial]) -> Failure:
    found = [one.measurement for one in trials if one.measurement]
    if not found:
        return Failure(
            f"None of {len(trials)} trials could be measured. The last one failed: "
            f"{trials[-1].error}",
            "Check with: delugeserve doctor",
        )
    budget, share = plan.load.latency_budget * 1e3, plan.load.percentile * 100
    nearest = min(found, key=lambda one: one.latency_ms)
    if nearest.latency_ms > budget:
        why = f"the lowest p{share:g} measured was {nearest.latency_ms:.3g} ms."
        remedy = larger_budget(nearest.latency_ms)
    else:
        why, remedy = f"{nearest.note.rstrip('.')}.", "Check with: delugeserve doctor"
    return BudgetError(
        f"No settings of '{plan.model}' keep p{share:g} <= {budget:g} ms; {why}",
        remedy,
        budget_ms=budget,
        nearest_ms=nearest.latency_ms,
    )


def gain(before: Trial, best: Trial) -> float:
    """Return the share by which a trial is ahead of another; infinite if that one has no score."""
    if not before.score:
        return math.inf if best.score else 0.0
    return best.score / before.score - 1


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
