"""Load tests of one target: every combination of batch size and load, or a search for a rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from delugeserve.errors import UsageError
from delugeserve.load.audit import CacheAudit, audit_cache
from delugeserve.load.rate import RateResult, estimate_rate, find_rate
from delugeserve.load.result import LoadResult
from delugeserve.load.rows import Row
from delugeserve.load.run import run
from delugeserve.load.scenarios import Scenario, Settings
from delugeserve.load.senders import OpenSender, open_sender
from delugeserve.load.target import Target
from delugeserve.system.progress import NO_PROGRESS, Progress

_BATCH_SIZES = (1, 16)  # of a closed loop
_MORE = 1.6  # times the samples that a test of offline took in its time


@dataclass(frozen=True)
class Report:
    """What the tests of a plan found.

    Attributes:
        rows: the tests; those of a search by rate, after the one without other requests.
        found: the result of a search; None without one.
        audit: whether the server remembers answers; None if that was not asked.
    """

    rows: tuple[Row, ...]
    found: RateResult | None = None
    audit: CacheAudit | None = None

    @property
    def valid(self) -> bool:
        """Whether a search found a rate or every test is valid, and no cache was seen."""
        good = self.found is not None or all(row.valid for row in self.rows)
        return good and not (self.audit is not None and self.audit.suspicious)

    def as_json(self) -> dict[str, Any]:
        """Return the report for JSON."""
        report: dict[str, Any] = {"measurements": [row.as_json() for row in self.rows]}
        if self.found is not None:
            report["rate"] = self.found.rate
            report["images_per_s"] = self.found.best.images_per_s
            report["unanswered"] = list(self.found.unanswered)
        if self.audit is not None:
            report["audit"] = self.audit.as_json()
        return report


@dataclass(frozen=True)
class Plan:
    """What is measured.

    The server scenario without rates is a search for the highest rate that keeps the budget.

    Attributes:
        target: what to send, and where.
        settings: how requests arrive, and for how long.
        batch_sizes: images per request. If empty: of a closed loop 1 and 16, of the offline
            scenario the model's maximum, otherwise 1.
        in_flight: requests in flight of a closed loop.
        rates: queries/s of the server scenario.
        repeats: how often each combination is measured, each time with another seed.
        precision: of a search; see :func:`delugeserve.load.find_rate`.
        audit: look for a cache, with the load of the last test.
        output: folder for LoadGen's log files, one folder inside for each test; None keeps none.
    """

    target: Target
    settings: Settings
    batch_sizes: tuple[int, ...] = ()
    in_flight: tuple[int, ...] = (1, 4, 16)
    rates: tuple[float, ...] = ()
    repeats: int = 1
    precision: float = 0.05
    audit: bool = False
    output: Path | None = None

    @property
    def searches(self) -> bool:
        """Whether this is a search for a rate."""
        return self.settings.scenario is Scenario.SERVER and not self.rates

    def measure(
        self,
        progress: Progress = NO_PROGRESS,
        *,
        sender: OpenSender = open_sender,
        on_trial: Callable[[LoadResult], None] = lambda _: None,
    ) -> Report:
        """Run the tests one after the other.

        Args:
            progress: receives the seconds of each test as steps.
            sender: opens what sends the requests.
            on_trial: called with each test of a search.

        Raises:
            UsageError: a batch is larger than the model takes, or a search has several sizes.
            BudgetError: a search finds no rate.
            NoAnswerError: no request of a test was answered.
            ClientError: the sender cannot connect.
        """
        # A batch size that the model does not take is an error before the first test.
        targets = [replace(self.target, batch_size=size) for size in self._sizes()]
        if self.searches:
            return self._search(targets, progress, sender, on_trial)
        rows, last = [], None
        for target in targets:
            for settings in self._loads(target, progress, sender):
                rows.append(self._row(target, settings, progress, sender))
                last = (target, settings)
        audit = None
        if self.audit and last is not None:
            audit = audit_cache(*last, sender=sender, progress=progress)
        return Report(tuple(rows), audit=audit)

    def _sizes(self) -> tuple[int, ...]:
        scenario, largest = self.settings.scenario, self.target.max_batch_size
        if scenario is Scenario.MULTI_STREAM:  # an image of each stream
            return (self.settings.streams,)
        if self.batch_sizes:
            return self.batch_sizes
        if scenario is Scenario.OFFLINE:
            return (largest or self.target.batch_size,)
        if scenario is Scenario.CLOSED_LOOP:
            return tuple(sorted({min(size, largest or size) for size in _BATCH_SIZES}))
        return (1,)

    def _loads(self, target: Target, progress: Progress, sender: OpenSender) -> Iterator[Settings]:
        scenario = self.settings.scenario
        if scenario is Scenario.CLOSED_LOOP:
            yield from (replace(self.settings, in_flight=number) for number in self.in_flight)
        elif scenario is Scenario.SERVER:
            yield from (replace(self.settings, rate=rate) for rate in self.rates)
        elif scenario is Scenario.OFFLINE:
            expected = estimate_rate(target, self.settings, sender=sender, progress=progress)
            yield replace(self.settings, rate=expected)
        else:
            yield self.settings

    def _row(
        self, target: Target, settings: Settings, progress: Progress, sender: OpenSender
    ) -> Row:
        results = []
        for number in range(self.repeats):
            folder = None
            if self.output is not None:
                folder = self.output / _folder_name(target, settings, number, self.repeats)
            seeded = replace(settings, seed=settings.seed + number)
            result = run(target, seeded, sender=sender, output=folder, progress=progress)
            if settings.scenario is Scenario.OFFLINE and result.seconds < settings.duration:
                # The estimate was too low, so that LoadGen sent too few samples.
                seeded = replace(seeded, rate=_MORE * result.images_per_s)
                result = run(target, seeded, sender=sender, output=folder, progress=progress)
            results.append(result)
        return Row(tuple(results))

    def _search(
        self,
        targets: list[Target],
        progress: Progress,
        sender: OpenSender,
        on_trial: Callable[[LoadResult], None],
    ) -> Report:
        if len(targets) > 1:
            raise UsageError("A search takes one batch size at a time.", "Use --batch-size 1.")
        found = find_rate(
            targets[0],
            self.settings,
            precision=self.precision,
            sender=sender,
            output=self.output,
            progress=progress,
            on_trial=on_trial,
        )
        audit = None
        if self.audit:
            audit = audit_cache(targets[0], self.settings, sender=sender, progress=progress)

        def rate(result: LoadResult) -> float:
            return result.scheduled_rate or 0.0

        tests = (found.alone, *sorted(found.trials, key=rate))
        return Report(tuple(Row((result,)) for result in tests), found, audit)


def _folder_name(target: Target, settings: Settings, number: int, repeats: int) -> str:
    parts = [settings.scenario.value, f"b{target.batch_size}"]
    if settings.scenario is Scenario.SERVER:
        parts.append(f"{settings.rate:.4g}")
    if settings.scenario is Scenario.CLOSED_LOOP:
        parts.append(f"c{settings.in_flight}")
    if repeats > 1:
        parts.append(str(number + 1))
    return "-".join(parts)
