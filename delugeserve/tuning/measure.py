"""Measure a candidate: serve it, and put it under load."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from delugeserve.artifacts.configuring import configure
from delugeserve.artifacts.model_config import FILE_NAME as CONFIG
from delugeserve.artifacts.promotion import configs_of
from delugeserve.artifacts.repository import version_numbers
from delugeserve.artifacts.transaction import lock_for_reading
from delugeserve.load import (
    BudgetError,
    LoadResult,
    Scenario,
    Settings,
    Target,
    estimate_rate,
    find_rate,
    prepare_target,
    run,
)
from delugeserve.serving.supervisor import serve
from delugeserve.system.progress import NO_PROGRESS, Progress

if TYPE_CHECKING:
    from delugeserve.tuning.space import Candidate

# A candidate that does not keep the budget near this share of the best rate so far is given up.
_HOPELESS = 0.5
_LOWEST_RATE = 0.5  # requests/s; a test at less takes many minutes
_ALONE_SECONDS = 2.0
_OFFLINE_IN_FLIGHT = 128  # images; twice the largest batch of an export by default


class Objective(str, Enum):
    """What is maximised."""

    RATE = "rate"
    """Images/s at the highest rate of random arrivals that keeps the latency budget (LoadGen's
    server scenario)."""
    THROUGHPUT = "throughput"
    """Images/s when all requests are there at once (offline), where a request without others keeps
    the latency budget (single-stream)."""

    @property
    def resolution(self) -> float:
        """The share by which two measurements must differ to mean anything.

        The search for a rate ends when it is known to within this share.
        """
        return 0.08 if self is Objective.RATE else 0.03


@dataclass(frozen=True)
class Measurement:
    """What a load test found of a candidate.

    Attributes:
        images_per_s: what is maximised; 0 if the budget is not kept.
        latency_ms: latency at the percentile: of the test at the highest rate, or of a request
            without others if the objective is throughput.
        alone_ms: median latency of a request without others; None if it is not known.
        note: why the budget is not kept; empty if it is.
    """

    images_per_s: float
    latency_ms: float
    alone_ms: float | None
    note: str = ""


@dataclass(frozen=True)
class LoadSettings:
    """The load of every trial.

    Attributes:
        objective: what is maximised.
        latency_budget: in seconds.
        percentile: share of the requests that must keep it.
        batch_size: images per request.
        duration: least length of each load test, in seconds.
        min_queries: least number of requests in each; None for what the percentile needs.
    """

    objective: Objective = Objective.RATE
    latency_budget: float = 0.1
    percentile: float = 0.99
    batch_size: int = 1
    duration: float = 5.0
    min_queries: int | None = None

    def of_scenario(self, scenario: Scenario) -> Settings:
        """Return the settings of a load test, but for its rate."""
        alone = scenario is Scenario.SINGLE_STREAM
        return Settings(
            scenario=scenario,
            duration=min(self.duration, _ALONE_SECONDS) if alone else self.duration,
            latency_budget=self.latency_budget,
            percentile=self.percentile,
            min_queries=self.min_queries,
            in_flight=max(4, _OFFLINE_IN_FLIGHT // self.batch_size),
            warmup=min(1.0, self.duration / 2),
        )


class Measure(Protocol):
    """Measures a candidate."""

    def __call__(
        self, candidate: Candidate, expected: float | None, progress: Progress
    ) -> Measurement:
        """Return what was found.

        Args:
            candidate: what to measure.
            expected: images/s that may be reached; None if that is not known.
            progress: receives the seconds of each test.
        """


class ServerMeasure:
    """Serves each candidate from a private copy of the model's configuration.

    Args:
        repository: the model repository, which stays as it is.
        model: name of the model.
        load: the load.
        front: serve through the front, as replicas need it; otherwise one bare server.
    """

    def __init__(self, repository: Path, model: str, load: LoadSettings, *, front: bool) -> None:
        self._repository, self._model, self._load, self._front = repository, model, load, front

    def __call__(
        self, candidate: Candidate, expected: float | None, progress: Progress = NO_PROGRESS
    ) -> Measurement:
        """Return what was found; see :class:`Measure`.

        Raises:
            DelugeServeError: the candidate cannot be served, or not be measured.
        """
        with tempfile.TemporaryDirectory(prefix="delugeserve-tune-") as name:
            folder = Path(name)
            copy_model(self._repository, self._model, candidate, folder)
            progress.stage("start the server")
            with serve(
                folder,
                grpc_port=0,
                http_port=None,
                metrics_port=None,
                direct=not self._front,
                active=candidate.replicas,
                standby=0,
            ) as server:
                target = prepare_target(
                    server.grpc_url, self._model, batch_size=self._load.batch_size
                )
                return measure_target(target, self._load, expected, progress)


def measure_target(
    target: Target, load: LoadSettings, expected: float | None, progress: Progress = NO_PROGRESS
) -> Measurement:
    """Measure a server that runs; the arguments are those of :class:`Measure`."""
    if load.objective is Objective.RATE:
        return _find_rate(target, load, expected, progress)
    alone = run(target, load.of_scenario(Scenario.SINGLE_STREAM), progress=progress)
    budget, latency = load.latency_budget * 1e3, alone.at_percentile_ms
    fault = _fault(alone)
    if not fault and latency > budget:
        fault = f"a request alone takes {latency:.3g} ms"
    if fault:
        return Measurement(0.0, latency, _median(alone), fault)
    offline = load.of_scenario(Scenario.OFFLINE)
    rate = estimate_rate(target, offline, progress=progress)
    full = run(target, dataclasses.replace(offline, rate=rate), progress=progress)
    fault = _fault(full)
    return Measurement(0.0 if fault else full.images_per_s, latency, _median(alone), fault)


def _find_rate(
    target: Target, load: LoadSettings, expected: float | None, progress: Progress
) -> Measurement:
    start = expected / load.batch_size if expected else None
    seen: list[LoadResult] = []
    try:
        found = find_rate(
            target,
            load.of_scenario(Scenario.SERVER),
            precision=load.objective.resolution,
            start=start,
            lowest=_HOPELESS * start if start else _LOWEST_RATE,
            progress=progress,
            on_trial=seen.append,
        )
    except BudgetError as error:
        alone = next(one for one in seen if one.scenario is Scenario.SINGLE_STREAM)
        rates = [one.scheduled_rate for one in seen if one.scheduled_rate]
        kept = error.nearest_ms <= error.budget_ms  # but requests failed, for instance
        note = error.problem if kept or not rates else f"not at {min(rates):,.3g} requests/s"
        return Measurement(0.0, error.nearest_ms, _median(alone), note)
    return Measurement(
        found.rate * load.batch_size, found.best.at_percentile_ms, _median(found.alone)
    )


def copy_model(repository: Path, model: str, candidate: Candidate, folder: Path) -> None:
    """Write a repository with one model, as a candidate serves it; its versions are linked.

    Args:
        repository: the model repository.
        model: name of the model.
        candidate: the settings.
        folder: an empty folder.
    """
    with lock_for_reading(repository):
        text = configs_of(repository, model, candidate.version)[model]
    target = folder / model
    target.mkdir()
    (target / CONFIG).write_text(text, encoding="utf-8")
    for number in version_numbers(repository / model):
        (target / str(number)).symlink_to((repository / model / str(number)).resolve())
    configure(folder, model, candidate.serving())


def _median(result: LoadResult) -> float:
    return result.percentiles_ms["50"]


def _fault(result: LoadResult) -> str:
    if result.errors:
        return f"{result.errors:,} requests failed ({result.first_error})"
    return f"{result.wrong:,} of {result.checked:,} answers were wrong" if result.wrong else ""
