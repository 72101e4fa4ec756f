"""Repeated tests as one row of figures, with confidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from delugeserve.load.histogram import merge, percentiles_ms
from delugeserve.load.result import LoadResult
from delugeserve.load.scenarios import Scenario

# Student's t for a two-sided confidence of 95 %, by degrees of freedom from 1.
_STUDENT = (
    *(12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True)
class Row:
    """One or more tests with the same settings.

    Percentiles are of all their queries together.

    Attributes:
        results: the tests, at least one.
    """

    results: tuple[LoadResult, ...]

    @property
    def first(self) -> LoadResult:
        """The first test, for what all have in common."""
        return self.results[0]

    @property
    def name(self) -> str:
        """What tells it from the others, such as ``server, 400/s`` or ``closed-loop, 8 in flight``.

        The batch size is named where it is more than 1.
        """
        result = self.first
        parts = [result.scenario.value]
        if result.batch_size > 1:
            parts.append(f"batch {result.batch_size}")
        if result.scheduled_rate:
            parts.append(f"{result.scheduled_rate:,.4g}/s")
        if result.in_flight:
            parts.append(f"{result.in_flight} in flight")
        return ", ".join(parts)

    @property
    def valid(self) -> bool:
        """Whether every test is valid."""
        return all(result.valid for result in self.results)

    @property
    def verdict(self) -> str:
        """``VALID`` or ``INVALID`` by LoadGen's rules; ``ok`` or ``failed`` for a closed loop."""
        if self.first.scenario is Scenario.CLOSED_LOOP:
            return "ok" if self.valid else "failed"
        return "VALID" if self.valid else "INVALID"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why some are not, each reason once."""
        return tuple(dict.fromkeys(text for result in self.results for text in result.reasons))

    @property
    def errors(self) -> int:
        """Requests that failed."""
        return sum(result.errors for result in self.results)

    @property
    def wrong(self) -> int:
        """Answers that were wrong."""
        return sum(result.wrong for result in self.results)

    @property
    def max_ms(self) -> float:
        """The largest latency."""
        return max(result.max_ms for result in self.results)

    def percentiles_ms(self) -> dict[str, float]:
        """Return the latencies of all queries by percentile."""
        if len(self.results) == 1:
            return dict(self.first.percentiles_ms)
        return percentiles_ms(merge(result.histogram for result in self.results))

    def mean_of(self, figure: Callable[[LoadResult], float]) -> float:
        """Return the mean of a figure over the tests."""
        return mean(map(figure, self.results))

    def half_width(self, figure: Callable[[LoadResult], float]) -> float | None:
        """Return half the width of a figure's 95 % confidence interval; None for a single test."""
        return half_width([figure(result) for result in self.results])

    def as_json(self) -> dict[str, Any]:
        """Return the row for JSON: a single test as it is, repeated ones with their confidence."""
        if len(self.results) == 1:
            return self.first.as_json()
        percentiles = self.percentiles_ms()
        return {
            "valid": self.valid,
            "reasons": self.reasons,
            "images_per_s": self.mean_of(lambda result: result.images_per_s),
            "images_per_s_half_width": self.half_width(lambda result: result.images_per_s),
            "percentiles_ms": percentiles,
            "percentiles_ms_half_width": {
                name: self.half_width(lambda result, name=name: result.percentiles_ms[name])  # type: ignore[misc]
                for name in percentiles
            },
            "repeats": [result.as_json() for result in self.results],
        }


def half_width(values: Sequence[float]) -> float | None:
    """Return half the width of the 95 % confidence interval of a mean, by Student's t.

    Args:
        values: independent measurements; None is returned for fewer than two.
    """
    freedom = len(values) - 1
    if freedom < 1:
        return None
    student = _STUDENT[min(freedom, len(_STUDENT)) - 1]  # hardly less for more of them
    return float(student * stdev(values) / len(values) ** 0.5)
