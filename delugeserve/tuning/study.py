"""A study: trials in a folder, chosen by optuna, kept whatever happens, and resumed."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from delugeserve.artifacts.typed_json import from_json, to_json
from delugeserve.errors import (
    BusyOutputError,
    DelugeServeError,
    ResumeError,
    UsageError,
    reason_of,
)
from delugeserve.system.files import atomic_write
from delugeserve.system.imports import require
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve.tuning.measure import Measure, Measurement
from delugeserve.tuning.plan import TuningPlan
from delugeserve.tuning.space import Candidate, Space
from delugeserve_client.errors import ClientError

_log = logging.getLogger(__name__)

_JOURNAL = "trials.log"
_PLAN = "tuning.json"
_LOCK = ".lock"
_STARTUP_TRIALS = 6
"""Trials at random before the optimiser models them."""
_REPEATS = 50
"""How often the optimiser may propose what was tried before it counts as finished."""
_IN_VAIN = 3
"""How many trials may fail before one is measured; then it is not the candidates that fail."""

_CANDIDATE, _MEASUREMENT, _ERROR = "candidate", "measurement", "error"  # of a trial
_FIRST = "first"  # of a study: the number of optuna's trial from which on they count


@dataclass(frozen=True)
class Trial:
    """A candidate that was tried.

    Attributes:
        number: of the trial, from 1.
        candidate: what was tried.
        measurement: what was found; None if it could not be served.
        error: why not; empty otherwise.
    """

    number: int
    candidate: Candidate
    measurement: Measurement | None
    error: str = ""

    @property
    def score(self) -> float:
        """What is maximised; 0 if nothing was measured."""
        return self.measurement.images_per_s if self.measurement else 0.0


class Study:
    """The trials of a study; made by :func:`open_study`."""

    def __init__(self, plan: TuningPlan) -> None:
        self._plan = plan
        optuna = require("optuna", "tune")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        journal = require("optuna.storages.journal", "tune")
        storage = optuna.storages.JournalStorage(
            journal.JournalFileBackend(str(plan.output / _JOURNAL))
        )
        self._study = optuna.create_study(
            storage=storage, study_name=plan.model, direction="maximize", load_if_exists=True
        )
        self._states = optuna.trial.TrialState
        for trial in self._all(self._states.RUNNING):
            # A run that was interrupted left it.
            self._study.tell(trial.number, state=self._states.FAIL)
        self._first = self._study.user_attrs.get(_FIRST, 0)
        if not any(trial.measurement for trial in self.trials):
            # It was not the candidates that failed, and may be mended by now.
            self._first = len(self._all())
            self._study.set_user_attr(_FIRST, self._first)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = optuna.samplers.TPESampler(
                seed=len(self._all()),  # a study that goes on does not propose the same again
                n_startup_trials=_STARTUP_TRIALS,
                multivariate=True,
                group=True,
            )

    def _all(self, *states: Any) -> list[Any]:
        """Return optuna's trials, those that were interrupted and repetitions included."""
        found: list[Any] = self._study.get_trials(deepcopy=False, states=states or None)
        return found

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The finished trials, in order; what was interrupted is not among them."""
        finished = (one for one in self._all()[self._first :] if _is_kept(one))
        return tuple(_read(number, one) for number, one in enumerate(finished, 1))

    @property
    def before(self) -> Trial | None:
        """The trial of the settings that the model has; None if they were not tried."""
        return self._find(self._plan.before)

    @property
    def best(self) -> Trial | None:
        """The trial with the highest score; None if nothing was measured."""
        measured = [trial for trial in self.trials if trial.score > 0]
        return max(measured, key=lambda trial: trial.score, default=None)

    def search(self, measure: Measure, progress: Progress = NO_PROGRESS) -> None:
        """Try candidates until the plan's number of trials, or all of them, are done.

        The settings that the model has are tried first. A candidate that cannot be served or
        measured is a failed trial, with its reason.
        """
        if self.before is None:
            self._try(self._study.ask(), self._plan.before, measure, progress)
        repeats = 0
        while len(self.trials) < self._plan.trials:
            if len(self.trials) >= _IN_VAIN and not any(one.measurement for one in self.trials):
                return
            asked = self._study.ask()
            candidate = self._plan.space.suggest(asked)
            earlier = self._find(candidate)
            if earlier is None:
                repeats = 0
                self._try(asked, candidate, measure, progress)
                continue
            # Known already: tell the optimiser, but do not count it.
            self._study.tell(asked, earlier.score)
            repeats += 1
            if repeats == _REPEATS:
                _log.info("the optimiser proposes nothing that was not tried")
                return

    def _find(self, candidate: Candidate) -> Trial | None:
        return next((one for one in self.trials if one.candidate == candidate), None)

    def _try(self, asked: Any, candidate: Candidate, measure: Measure, progress: Progress) -> None:
        asked.set_user_attr(_CANDIDATE, to_json(candidate))
        number = len(self.trials) + 1
        _log.info(
            "trial %d of %d: %s",
            number,
            max(number, self._plan.trials),
            describe(candidate, self._plan.space),
        )
        best = self.best
        try:
            trial = attempt(number, candidate, best.score if best else None, measure, progress)
        except Exception as error:
            asked.set_user_attr(_ERROR, f"{type(error).__name__}: {reason_of(error)}")
            self._study.tell(asked, state=self._states.FAIL)
            raise
        if trial.measurement is None:
            asked.set_user_attr(_ERROR, trial.error)
        else:
            asked.set_user_attr(_MEASUREMENT, to_json(trial.measurement))
        self._study.tell(asked, trial.score)


def attempt(
    number: int,
    candidate: Candidate,
    expected: float | None,
    measure: Measure,
    progress: Progress = NO_PROGRESS,
) -> Trial:
    """Measure a candidate, and return a trial; one that cannot be measured has failed."""
    try:
        found = measure(candidate, expected, progress)
    except (DelugeServeError, ClientError) as error:
        _log.warning("trial %d failed: %s", number, error.problem)
        return Trial(number, candidate, None, error.problem)
    _log.info("trial %d: %s", number, describe_measurement(found))
    return Trial(number, candidate, found)


@contextlib.contextmanager
def open_study(plan: TuningPlan) -> Iterator[Study]:
    """Open the study of a plan, and hold it against other processes until the block ends.

    Raises:
        BusyOutputError: another process has it.
        ResumeError: it was begun with other options.
        UsageError: it is of another model or machine, or its folder cannot be used.
    """
    filelock = require("filelock", "tune")
    with contextlib.ExitStack() as stack:
        try:
            plan.output.mkdir(parents=True, exist_ok=True)
            stack.enter_context(filelock.FileLock(plan.output / _LOCK, timeout=0))
            _check_plan(plan)
        except filelock.Timeout:
            raise BusyOutputError(plan.output) from None
        except OSError as error:
            raise UsageError(
                f"The folder {plan.output} cannot be used ({error.strerror or error}).",
                "Choose another --output.",
            ) from error
        yield Study(plan)


def _check_plan(plan: TuningPlan) -> None:
    path = plan.output / _PLAN
    now = {"options": plan.options, "facts": plan.facts}
    if not path.is_file():
        if any(one.name != _LOCK for one in plan.output.iterdir()):
            raise UsageError(
                f"The folder {plan.output} holds other files.", "Choose a new --output."
            )
        with atomic_write(path) as beside:
            beside.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")
        return
    try:
        then = json.loads(path.read_text(encoding="utf-8"))
        options, facts = (_differences(then[key], now[key]) for key in ("options", "facts"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path} is damaged.", "Choose a new --output.") from None
    if options:
        raise ResumeError(plan.output, options)
    for name, (before, after) in facts.items():
        raise UsageError(
            f"Cannot resume {plan.output}: its {name} was {before or 'absent'}, and is now "
            f"{after or 'absent'}.",
            "Choose another --output.",
        )


def _differences(then: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        name: (then.get(name), now.get(name))
        for name in dict.fromkeys((*then, *now))
        if then.get(name) != now.get(name)
    }


def _is_kept(trial: Any) -> bool:
    """Whether a trial of optuna's was finished, and is not a repetition of another one."""
    attributes = trial.user_attrs
    return trial.state.is_finished() and (_MEASUREMENT in attributes or _ERROR in attributes)


def _read(number: int, trial: Any) -> Trial:
    attributes = trial.user_attrs
    found = attributes.get(_MEASUREMENT)
    return Trial(
        number,
        from_json(Candidate, attributes[_CANDIDATE]),
        from_json(Measurement, found) if found is not None else None,
        attributes.get(_ERROR, ""),
    )


def describe(candidate: Candidate, space: Space) -> str:
    """Return a clause, such as ``2 instances of 1 thread, delay 2 ms``."""
    parts = []
    known = {one.number: f" ({one.backend} {one.precision})" for one in space.versions}
    if {*known} != {candidate.version}:
        parts.append(f"version {candidate.version}{known.get(candidate.version, '')}")
    if candidate.replicas > 1:
        parts.append(f"{candidate.replicas} servers")
    text = _count(candidate.instances, "instance")
    if candidate.threads:
        text += f" of {_count(candidate.threads, 'thread')}"
    parts.append(text)
    if candidate.cpu_pinning:
        parts.append("pinned")
    if candidate.queue_delay_us:
        parts.append(f"delay {candidate.queue_delay_us / 1e3:g} ms")
    if candidate.preferred_batch_sizes:
        sizes = ", ".join(map(str, candidate.preferred_batch_sizes))
        parts.append(f"batches of {sizes}")
    return ", ".join(parts)


def describe_measurement(found: Measurement) -> str:
    """Return a clause, such as ``410 images/s, 48.1 ms``."""
    if found.note:
        return f"the budget is not kept: {found.note.rstrip('.')}"
    return f"{describe_speed(found.images_per_s)} images/s, {found.latency_ms:.3g} ms"


def describe_speed(images_per_s: float) -> str:
    """Return a number with three digits at least, so that a few per cent can be seen."""
    return f"{images_per_s:,.0f}" if images_per_s >= 100 else f"{images_per_s:.3g}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
