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

_CANDIDATE, _MEASUREMENT, _ERROR = "candidate", "measurement", "error"


@dataclass(frozen=True)
class Trial:
    """A candidate that was tried.

    Attributes:
        number: of the trial, from 1, which is the settings that the model had.
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
        self._optuna = require("optuna", "tune")
        self._optuna.logging.set_verbosity(self._optuna.logging.ERROR)
        journal = require("optuna.storages.journal", "tune")
        storage = self._optuna.storages.JournalStorage(
            journal.JournalFileBackend(str(plan.output / _JOURNAL))
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
            sampler = self._optuna.samplers.TPESampler(
                seed=0, n_startup_trials=_STARTUP_TRIALS, multivariate=True, group=True
            )
        self._study = self._optuna.create_study(
            storage=storage,
            study_name=plan.model,
            direction="maximize",
            load_if_exists=True,
            sampler=sampler,
        )
        state = self._optuna.trial.TrialState
        self._failed = state.FAIL
        for trial in self._study.get_trials(deepcopy=False, states=(state.RUNNING,)):
            # A run that was interrupted left it.
            self._study.tell(trial.number, state=state.FAIL)
        if not self.trials:  # none was finished
            self._study.enqueue_trial(plan.before.parameters)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The finished trials, in order; what was interrupted is not among them."""
        finished = (one for one in self._study.get_trials(deepcopy=False) if _is_kept(one))
        return tuple(_read(number, one) for number, one in enumerate(finished, 1))

    @property
    def best(self) -> Trial | None:
        """The trial with the highest score; None if nothing was measured."""
        measured = [trial for trial in self.trials if trial.score > 0]
        return max(measured, key=lambda trial: trial.score, default=None)

    def search(self, measure: Measure, progress: Progress = NO_PROGRESS) -> None:
        """Try candidates until the plan's number of trials, or all of them, are done.

        A candidate that cannot be served or measured is a failed trial, with its reason.
        """
        repeats = 0
        while len(self.trials) < self._plan.trials and repeats < _REPEATS:
            asked = self._study.ask()
            candidate = self._plan.space.suggest(asked)
            earlier = next((one for one in self.trials if one.candidate == candidate), None)
            if earlier is not None:
                # Known already: tell the optimiser, but do not count it.
                repeats += 1
                self._study.tell(asked, earlier.score)
                continue
            repeats = 0
            self._try(asked, candidate, measure, progress)

    def _try(self, asked: Any, candidate: Candidate, measure: Measure, progress: Progress) -> None:
        asked.set_user_attr(_CANDIDATE, to_json(candidate))
        number = len(self.trials) + 1
        _log.info("trial %d of %d: %s", number, self._plan.trials, describe(candidate, self._plan))
        best = self.best
        try:
            found = measure(candidate, best.score if best else None, progress)
        except (DelugeServeError, ClientError) as error:
            asked.set_user_attr(_ERROR, error.problem)
            self._study.tell(asked, 0.0)
            _log.warning("trial %d failed: %s", number, error.problem)
            return
        except Exception as error:
            asked.set_user_attr(_ERROR, f"{type(error).__name__}: {reason_of(error)}")
            self._study.tell(asked, state=self._failed)
            raise
        asked.set_user_attr(_MEASUREMENT, to_json(found))
        self._study.tell(asked, found.images_per_s)
        _log.info("trial %d: %s", number, describe_measurement(found))


@contextlib.contextmanager
def open_study(plan: TuningPlan) -> Iterator[Study]:
    """Open the study of a plan, and hold it against other processes until the block ends.

    Raises:
        BusyOutputError: another process has it.
        ResumeError: it was begun with other options.
        UsageError: it is of another model or machine, or its folder cannot be used.
    """
    filelock = require("filelock", "tune")
    try:
        plan.output.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(plan.output / _LOCK, timeout=0)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock)
            except filelock.Timeout:
                raise BusyOutputError(plan.output) from None
            _check_plan(plan)
            yield Study(plan)
    except OSError as error:
        raise UsageError(
            f"The folder {plan.output} cannot be used ({error.strerror or error}).",
            "Choose another --output.",
        ) from error


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


def describe(candidate: Candidate, plan: TuningPlan | None = None) -> str:
    """Return a clause, such as ``2 instances of 1 thread, delay 2 ms``."""
    space: Space | None = plan.space if plan else None
    parts = []
    if space and len(space.versions) > 1:
        version = space.version(candidate.version)
        parts.append(f"version {version.number} ({version.backend} {version.precision})")
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
    return f"{found.images_per_s:,.0f} images/s, {found.latency_ms:.3g} ms"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
