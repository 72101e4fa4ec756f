"""The highest rate of requests at which a server keeps a latency budget."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from delugeserve.errors import Failure
from delugeserve.load.budget import larger_budget
from delugeserve.load.result import LoadResult, NoAnswerError
from delugeserve.load.run import run
from delugeserve.load.scenarios import Scenario, Settings
from delugeserve.load.senders import OpenSender, open_sender
from delugeserve.load.target import Target
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve_client import ClientError

_log = logging.getLogger(__name__)

_ESTIMATE_SECONDS, _ESTIMATE_MARGIN = 2.0, 1.6
_START = 0.8  # of a closed loop's rate
_FIRST_STEP, _LARGEST_STEP = 1.2, 2.0
_LOWEST_SHARE = 20  # the search ends at this part of the first rate
_LOWEST_RATE = 0.5  # queries/s; a test at less takes many minutes
_LEAST_BUDGETS = 10  # a queue that grows must have the time to break the budget
# A server that an overload brought down is asked again for so long, with pauses.
_RECOVERS_WITHIN, _PROBE_SECONDS, _PROBE_PAUSE = 60.0, 0.2, 3.0


@dataclass(frozen=True)
class RateResult:
    """The highest rate that keeps a budget.

    Attributes:
        best: the VALID test that confirms the rate. It is not the one by which the search chose
            the rate: that one may have been VALID by chance.
        alone: the latency without other requests, from the single-stream scenario.
        trials: every test of the server scenario, in the order in which they ran.
        unanswered: rates, in queries/s, at which no request at all was answered.
    """

    best: LoadResult
    alone: LoadResult
    trials: tuple[LoadResult, ...]
    unanswered: tuple[float, ...] = ()

    @property
    def rate(self) -> float:
        """The highest scheduled rate that was VALID and confirmed, in queries/s."""
        return self.best.scheduled_rate or self.best.completed_rate

    def as_json(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {
            "rate": self.rate,
            "images_per_s": self.best.images_per_s,
            "best": self.best.as_json(),
            "alone": self.alone.as_json(),
            "trials": [trial.as_json() for trial in self.trials],
            "unanswered": list(self.unanswered),
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
    """Find the highest rate at which a server keeps a latency budget.

    The search begins near the rate of a closed loop, goes up or down in growing steps until the
    verdict changes, and bisects. The rate found is tested again with other times of arrival; while
    that test is INVALID, the search goes down, by ``precision`` at first.

    Args:
        target: what to send, and where.
        settings: the budget, the percentile, and the length of each test, which is ten budgets at
            least; the rate and the scenario are chosen here.
        precision: the bisection ends when the highest VALID rate and the lowest INVALID one differ
            by this share or less.
        start: the rate to begin with, in queries/s; by default 80 % of what a closed loop reaches.
        lowest: the lowest rate that is of interest, in queries/s.
        sender: opens what sends the requests.
        output: folder for LoadGen's log files, one folder inside for each test; None keeps none.
        progress: receives each test's seconds as steps.
        on_trial: called with each test's result.

    Raises:
        BudgetError: the server does not keep the budget at any rate of interest.
        NoAnswerError: the server answers nothing, even without load.
        MissingExtraError: mlcommons-loadgen is not installed.
        ClientError: the sender cannot connect.
    """
    return _Search(target, settings, precision, sender, output, progress, on_trial).find(
        start, lowest
    )


@dataclass
class _Search:
    """A search; the fields are the arguments of :func:`find_rate`."""

    target: Target
    settings: Settings
    precision: float
    sender: OpenSender
    output: Path | None
    progress: Progress
    on_trial: Callable[[LoadResult], None]
    trials: list[LoadResult] = field(default_factory=list)
    unanswered: list[float] = field(default_factory=list)

    def find(self, start: float | None, lowest: float) -> RateResult:
        alone = self._alone()
        rate = max(lowest, start or self._estimate(alone))
        # The least latency is above the budget only where the model is too slow, or where a request
        # waits for others to form a batch with it. In the second case others make it faster.
        hopeless = alone.min_ms > self.settings.latency_budget * 1e3
        lowest = rate if hopeless else max(lowest, rate / _LOWEST_SHARE)
        low = self._bisect(rate, lowest)
        best = self._confirm(low, lowest) if low else None
        if best is None:
            raise self._nothing_keeps(alone)
        return RateResult(best, alone, tuple(self.trials), tuple(self.unanswered))

    def _bisect(self, rate: float, lowest: float) -> float | None:
        """Return the highest rate that was VALID, or None."""
        low, high, step = 0.0, math.inf, _FIRST_STEP
        while rate >= lowest:
            if self._keeps(rate):
                low = rate
            else:
                high = rate
            if low and high / low <= 1 + self.precision:
                break
            if low and high < math.inf:
                rate = (low * high) ** 0.5
            else:
                rate = low * step if low else high / step
                step = min(step**2, _LARGEST_STEP)
        return low or None

    def _confirm(self, rate: float, lowest: float) -> LoadResult | None:
        """Return a VALID test at a rate, or at the next below, with times of arrival of its own."""
        seed, step = self.settings.seed, 1 + self.precision
        while rate >= lowest:
            seed += 1
            if (result := self._keeps(rate, seed)) is not None:
                return result
            rate /= step
            step = min(step**2, _LARGEST_STEP)
        return None

    def _keeps(self, rate: float, seed: int | None = None) -> LoadResult | None:
        """Return the result of a test at a rate if it is VALID."""
        chosen = replace(
            self.settings,
            scenario=Scenario.SERVER,
            rate=rate,
            duration=max(self.settings.duration, _LEAST_BUDGETS * self.settings.latency_budget),
            seed=self.settings.seed if seed is None else seed,
        )
        name = f"server-b{self.target.batch_size}-{rate:.4g}"
        try:
            result = self._test(chosen, name if seed is None else f"{name}-seed{seed}")
        except (NoAnswerError, ClientError) as error:
            _log.warning("At %.4g requests/s: %s", rate, error)
            self.unanswered.append(rate)
            self._await_server(rate, error)
            return None
        self.trials.append(result)
        if result.errors:  # a server that restarts would fail the next test as well
            self._await_server(rate, None)
        return result if result.valid else None

    def _test(self, settings: Settings, name: str) -> LoadResult:
        folder = self.output / name if self.output is not None else None
        result = run(
            self.target, settings, sender=self.sender, output=folder, progress=self.progress
        )
        self.on_trial(result)
        return result

    def _alone(self) -> LoadResult:
        """Return a single-stream test; the better of two if a stall may have spoilt one."""
        settings = replace(
            self.settings,
            scenario=Scenario.SINGLE_STREAM,
            duration=min(2.0, self.settings.duration),
        )
        name = f"single-stream-b{self.target.batch_size}"
        first = self._test(settings, name)
        if not first.min_ms <= settings.latency_budget * 1e3 < first.at_percentile_ms:
            return first
        second = self._test(replace(settings, seed=settings.seed + 1), f"{name}-again")
        return min(first, second, key=lambda result: result.at_percentile_ms)

    def _estimate(self, alone: LoadResult) -> float:
        """Return a rate to begin with."""
        try:
            loop = self._probe(
                _ESTIMATE_SECONDS, self.settings.in_flight, warmup=self.settings.warmup
            )
            rate = loop.completed_rate
        except NoAnswerError as error:
            self._await_server(alone.completed_rate, error)
            rate = alone.completed_rate
        return rate * _START

    def _probe(self, seconds: float, in_flight: int, warmup: float) -> LoadResult:
        settings = replace(
            self.settings,
            scenario=Scenario.CLOSED_LOOP,
            duration=min(seconds, self.settings.duration),
            in_flight=in_flight,
            warmup=warmup,
        )
        return run(self.target, settings, sender=self.sender, progress=self.progress)

    def _await_server(self, rate: float, error: Exception | None) -> None:
        """Wait until a server that a test may have brought down answers again.

        Raises:
            NoAnswerError: it does not.
        """
        last = time.monotonic() + _RECOVERS_WITHIN
        while True:
            try:
                self._probe(_PROBE_SECONDS, in_flight=1, warmup=0.0)
                return
            except (NoAnswerError, ClientError) as still:
                _log.info("The server does not answer yet: %s", still)
            if time.monotonic() > last:
                break
            time.sleep(_PROBE_PAUSE)
        valid = [trial.scheduled_rate or 0 for trial in self.trials if trial.valid]
        known = f" The highest VALID rate before was {max(valid):,.4g}/s." if valid else ""
        raise NoAnswerError(
            f"The server no longer answers after a test at {rate:,.4g} requests/s.{known}",
            "Look at the server's log, and start it again.",
        ) from error

    def _nothing_keeps(self, alone: LoadResult) -> BudgetError:
        budget, share = self.settings.latency_budget * 1e3, self.settings.percentile * 100
        tried = list(self.trials)
        if alone.at_percentile_ms > budget or not tried:
            tried.append(alone)
        nearest = min(tried, key=lambda result: result.at_percentile_ms)
        latency = nearest.at_percentile_ms
        if latency > budget:
            found = f"the lowest p{share:g} measured was {latency:.3g} ms."
            remedy = larger_budget(latency)
        else:
            why = " ".join(nearest.reasons)  # failed requests, wrong answers
            found = why or "a rate that kept it once did not keep it again."
            remedy = "Look at the server's log, or use a larger --latency-budget."
        return BudgetError(
            f"No rate keeps p{share:g} <= {budget:g} ms for '{alone.model}'; {found}",
            remedy,
            budget_ms=budget,
            nearest_ms=latency,
        )


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
