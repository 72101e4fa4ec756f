"""The highest rate of requests at which a server keeps a latency budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from delugeserve.errors import Failure
from delugeserve.load.result import LoadResult
from delugeserve.load.run import run
from delugeserve.load.scenarios import Scenario, Settings
from delugeserve.load.senders import OpenSender, open_sender
from delugeserve.load.target import Target
from delugeserve.system.progress import NO_PROGRESS, Progress

_ESTIMATE_SECONDS, _ESTIMATE_MARGIN = 2.0, 1.6
_START = 0.5
_LOWEST_SHARE = 20  # the search ends at this part of the first rate
_LOWEST_RATE = 0.5  # queries/s; a test at less takes many minutes
_LEAST_BUDGETS = 10  # a queue that grows must have the time to break the budget


@dataclass(frozen=True)
class RateResult:
    """The highest rate that keeps a budget.

    Attributes:
        best: the test at the highest rate that was VALID.
        alone: the latency without other requests, from the single-stream scenario.
        trials: every test of the server scenario, in the order in which they ran.
    """

    best: LoadResult
    alone: LoadResult
    trials: tuple[LoadResult, ...]

    @property
    def rate(self) -> float:
        """The highest scheduled rate that was VALID, in queries/s."""
        return self.best.scheduled_rate or self.best.completed_rate

    def as_json(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {
            "rate": self.rate,
            "images_per_s": self.best.images_per_s,
            "best": self.best.as_json(),
            "alone": self.alone.as_json(),
            "trials": [trial.as_json() for trial in self.trials],
        }


class BudgetError(Failure):
    """No rate keeps the latency budget.

    Attributes:
        budget_ms: the budget.
        nearest_ms: the least latency at the percentile that was measured.
    """

    def __init__(self, problem: str, remedy: str, *, budget_ms: float, nearest_ms: float) -> None:
        super().__init__(problem, remedy)
        self.budget_ms, self.nearest_ms = budget_ms, nearest_ms


def find_rate(
    target: Target,
    settings: Settings,
    *,
    precision: float = 0.05,
    start: float | None = None,
    lowest: float = _LOWEST_RATE,
    sender: OpenSender = open_sender,
    output: Path | None = None,
    progress: Progress = NO_PROGRESS,
    on_trial: Callable[[LoadResult], None] = lambda _: None,
) -> RateResult:
    """Find the highest rate at which a server keeps a latency budget, by doubling and bisection.

    Args:
        target: what to send, and where.
        settings: the budget, the percentile, and the length of each test, which is ten budgets at
            least; the rate and the scenario are chosen here.
        precision: the search ends when the highest VALID rate and the lowest INVALID one differ by
            this share or less.
        start: the rate to begin with, in queries/s; by default half of what one request at a time
            reaches.
        lowest: the lowest rate that is of interest, in queries/s.
        sender: opens what sends the requests.
        output: folder for LoadGen's log files, one folder inside for each test; None keeps none.
        progress: receives each test's seconds as steps.
        on_trial: called with each test's result.

    Raises:
        BudgetError: the server does not keep the budget at any rate of interest.
        MissingExtraError: mlcommons-loadgen is not installed.
        ClientError: the sender cannot connect.
    """
    trials: list[LoadResult] = []

    def test(chosen: Settings, name: str) -> LoadResult:
        folder = output / name if output is not None else None
        result = run(target, chosen, sender=sender, output=folder, progress=progress)
        on_trial(result)
        return result

    duration = max(settings.duration, _LEAST_BUDGETS * settings.latency_budget)

    def at(rate: float) -> LoadResult:
        chosen = replace(settings, scenario=Scenario.SERVER, rate=rate, duration=duration)
        trials.append(test(chosen, f"server-{rate:.4g}"))
        return trials[-1]

    alone = test(
        replace(settings, scenario=Scenario.SINGLE_STREAM, duration=min(2.0, settings.duration)),
        "single-stream",
    )
    if alone.at_percentile_ms > settings.latency_budget * 1e3:
        raise _nothing_keeps(settings, [alone])  # others' requests make it no faster
    low, high = 0.0, float("inf")
    best: LoadResult | None = None
    rate = start or max(lowest, alone.completed_rate * _START)
    lowest = max(lowest, rate / _LOWEST_SHARE)
    while rate >= lowest and (best is None or high / low > 1 + precision):
        result = at(rate)
        if result.valid:
            low, best = rate, result
        else:
            high = rate
        if best is None:
            rate = high / 2
        elif high == float("inf"):
            rate = low * 2
        else:
            rate = (low * high) ** 0.5
    if best is None:
        raise _nothing_keeps(settings, [alone, *trials])
    return RateResult(best, alone, tuple(trials))


def estimate_rate(
    target: Target,
    settings: Settings,
    *,
    sender: OpenSender = open_sender,
    progress: Progress = NO_PROGRESS,
) -> float:
    """Return the rate of samples to expect of the offline scenario, from a short closed loop.

    LoadGen chooses from it how many samples to send, and calls a test INVALID whose samples were
    answered too soon. So it is more than was measured, for a machine that is less busy a moment
    later.

    Args:
        target: what to send, and where.
        settings: of the offline scenario.
        sender: opens what sends the requests.
        progress: receives the seconds of the test as steps.
    """
    short = replace(
        settings,
        scenario=Scenario.CLOSED_LOOP,
        duration=min(settings.duration, _ESTIMATE_SECONDS),
    )
    result = run(target, short, sender=sender, progress=progress)
    return result.images_per_s * _ESTIMATE_MARGIN


def _nothing_keeps(settings: Settings, tried: list[LoadResult]) -> BudgetError:
    nearest = min(result.at_percentile_ms for result in tried)
    budget, share = settings.latency_budget * 1e3, settings.percentile * 100
    return BudgetError(
        f"The model '{tried[0].model}' keeps p{share:g} <= {budget:g} ms at no rate; the nearest "
        f"was {nearest:.3g} ms.",
        f"Use --latency-budget {_round_up(nearest):g}ms or more, or a smaller or faster model.",
        budget_ms=budget,
        nearest_ms=nearest,
    )


def _round_up(milliseconds: float) -> float:
    """Return a somewhat larger number with two digits."""
    return float(f"{milliseconds * 1.25:.2g}")
