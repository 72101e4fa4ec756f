"""What one call of ``delugeserve benchmark`` measures, and what it writes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from delugeserve.cli.render.benchmark import ClientMachine, print_trial
from delugeserve.errors import UsageError
from delugeserve.system.hardware import describe

if TYPE_CHECKING:
    from delugeserve.load import LoadResult, RateResult, Settings, Target
    from delugeserve.load.audit import CacheAudit
    from delugeserve.load.rows import Row
    from delugeserve.system.progress import Progress
    from delugeserve_client.preprocessing import Pixels

_log = logging.getLogger(__name__)

ScenarioName = Literal["closed-loop", "single-stream", "multi-stream", "server", "offline"]
_DEFAULT_BATCH_SIZES = (1, 16)


@dataclasses.dataclass
class Work:
    """What one call of the command measures."""

    target: Target
    settings: Settings
    repeats: int
    output: Path | None
    precision: float
    _chosen: Settings | None = None
    _target: Target | None = None

    def measure(
        self,
        sizes: Sequence[int],
        in_flight: Sequence[int],
        rates: Sequence[int],
        progress: Progress,
    ) -> list[Row]:
        """Measure every combination."""
        from delugeserve.load import Scenario, estimate_rate

        scenario = self.settings.scenario
        rows = []
        for size in sizes:
            target = dataclasses.replace(self.target, batch_size=size)
            if scenario is Scenario.CLOSED_LOOP:
                variants = [dataclasses.replace(self.settings, in_flight=n) for n in in_flight]
            elif scenario is Scenario.SERVER:
                variants = [dataclasses.replace(self.settings, rate=float(n)) for n in rates]
            elif scenario is Scenario.OFFLINE:
                expected = estimate_rate(target, self.settings, progress=progress)
                variants = [dataclasses.replace(self.settings, rate=expected)]
            else:
                variants = [self.settings]
            rows += [self._row(target, variant, progress) for variant in variants]
        return rows

    def _row(self, target: Target, settings: Settings, progress: Progress) -> Row:
        from delugeserve.load import run
        from delugeserve.load.rows import Row

        results = []
        for number in range(self.repeats):
            folder = None
            if self.output is not None:
                folder = self.output / _folder_name(target, settings, number, self.repeats)
            seeded = dataclasses.replace(settings, seed=settings.seed + number)
            results.append(run(target, seeded, output=folder, progress=progress))
        self._chosen, self._target = settings, target
        return Row(tuple(results))

    def find(self, sizes: Sequence[int], progress: Progress) -> RateResult:
        """Find the highest rate that keeps the budget."""
        from delugeserve.load import find_rate

        if len(sizes) > 1:
            raise UsageError(
                "--latency-budget takes one batch size at a time.", "Use --batch-size 1."
            )
        self._target = dataclasses.replace(self.target, batch_size=sizes[0])
        found = find_rate(
            self._target,
            self.settings,
            precision=self.precision,
            output=self.output,
            progress=progress,
            on_trial=print_trial,
        )
        self._chosen = dataclasses.replace(self.settings, rate=found.rate)
        return found

    def rows_of(self, found: RateResult) -> list[Row]:
        """Return the tests of a search, by rate."""
        from delugeserve.load.rows import Row

        def rate(result: LoadResult) -> float:
            return result.scheduled_rate or 0.0

        return [Row((result,)) for result in (found.alone, *sorted(found.trials, key=rate))]

    def audit(self, progress: Progress) -> CacheAudit:
        """Look for a cache with the settings of the last test, or of the best of a search."""
        from delugeserve.load.audit import audit_cache

        assert self._chosen is not None
        assert self._target is not None
        return audit_cache(self._target, self._chosen, progress=progress)


def _folder_name(target: Target, settings: Settings, number: int, repeats: int) -> str:
    from delugeserve.load import Scenario

    parts = [settings.scenario.value, f"b{target.batch_size}"]
    if settings.scenario is Scenario.SERVER:
        parts.append(f"{settings.rate:.4g}")
    if settings.scenario is Scenario.CLOSED_LOOP:
        parts.append(f"c{settings.in_flight}")
    if repeats > 1:
        parts.append(str(number + 1))
    return "-".join(parts)


def default_sizes(scenario: ScenarioName, largest: int) -> list[int]:
    """Return the batch sizes to measure where none are given."""
    if scenario == "offline":
        return [largest]
    if scenario == "closed-loop":
        return sorted({min(size, largest) for size in _DEFAULT_BATCH_SIZES})
    return [1]


def ask_server(
    url: str, model: str | None, timeout: float, image: Path | None
) -> tuple[Pixels | None, int]:
    """Return the pixels of an image for a model, and the model's largest batch."""
    from delugeserve_client.address import parse_address
    from delugeserve_client.transport import open_transport

    transport = open_transport(parse_address(url), timeout)
    try:
        served = transport.connect(model)
    finally:
        transport.close()
    pixels = served.preprocessing(image)[None] if image is not None else None
    return pixels, served.max_batch_size


def as_json(
    target: Target,
    machine: ClientMachine,
    rows: Sequence[Row],
    found: RateResult | None,
    audits: Sequence[CacheAudit],
) -> dict[str, Any]:
    """Return what was measured for JSON."""
    report: dict[str, Any] = {
        "url": target.url,
        "machine": dataclasses.asdict(machine),
        "measurements": [row.as_json() for row in rows],
    }
    if found is not None:
        report["rate"] = found.rate
        report["images_per_s"] = found.best.images_per_s
    if audits:
        report["audit"] = audits[0].as_json()
    return report


def write_outputs(
    rows: Sequence[Row],
    csv: Path | None,
    plot: Path | None,
    html: Path | None,
    *,
    title: str,
    machine: str,
) -> None:
    """Write the files that were asked for."""
    if csv is not None:
        from delugeserve.load.perf_analyzer import write_csv

        write_csv(rows, csv)
        _log.info("Wrote %s.", csv)
    if plot is not None:
        from delugeserve.load.plots import save_plot

        save_plot(rows, plot, subtitle=describe())
        _log.info("Wrote %s.", plot)
    if html is not None:
        from delugeserve.load.report import write_report

        write_report(rows, html, title=title, machine=machine)
        _log.info("Wrote %s.", html)
