"""What a load test found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from delugeserve.errors import Failure
from delugeserve.load.scenarios import Scenario
from delugeserve.load.statistics import ServerSplit


class NoAnswerError(Failure):
    """No request of a load test was answered."""


@dataclass(frozen=True)
class LoadResult:
    """The result of one load test.

    Latencies are in milliseconds. In LoadGen's scenarios they count from when a query was
    scheduled, not from when it was sent: a query that waits because the client or the server is
    behind is late. In a closed loop they count from when a request is sent.

    Attributes:
        model: the model's name.
        url: the server's address.
        scenario: how requests arrived.
        batch_size: images per request.
        in_flight: requests in flight of a closed loop, or at most in flight offline; else None.
        valid: whether the result holds: LoadGen's verdict is VALID, and no request failed or was
            answered wrongly.
        reasons: why it does not.
        queries: queries answered.
        seconds: from the first query's scheduled time to the last answer.
        scheduled_rate: queries/s that were scheduled; None except in the server scenario.
        completed_rate: queries/s that were answered.
        images_per_s: images answered per second.
        percentile: the share of queries that had to keep the budget.
        budget_ms: the budget; None except in the server scenario.
        at_percentile_ms: latency at that percentile.
        mean_ms: mean latency.
        min_ms: least latency.
        max_ms: largest latency.
        percentiles_ms: latency by percentile, such as ``{"50": 1.2, "99.9": 8.1}``.
        over_budget: queries that took longer than the budget.
        issue_delay_mean_ms: mean time from when a query was scheduled until the client sent it.
        issue_delay_p99_ms: 99th percentile of the same. It is what the client itself adds.
        estimate_ms: LoadGen's early-stopping estimate for one and several streams: the latency at
            the percentile is below it with a confidence of 99 %; None where it has none.
        errors: requests that failed.
        first_error: what the first of them said.
        checked: requests whose answer was compared with the expected one.
        wrong: how many of them differed.
        client_cores: cores that the client used during the test.
        client_limit: why the client rather than the server may be the limit; None if it is not.
        server: where the server spent the time; None where it does not tell.
        load_before: load average of the machine (1 minute) before the test; None if unknown.
        load_after: the same after it.
        histogram: the latencies as an encoded HdrHistogram, in microseconds.
        loadgen: what LoadGen itself logged, by key: ``result_validity``, ``early_stopping_met``.
        folder: where LoadGen's own log files are; None if they were not kept.
    """

    model: str
    url: str
    scenario: Scenario
    batch_size: int
    in_flight: int | None
    valid: bool
    reasons: tuple[str, ...]
    queries: int
    seconds: float
    scheduled_rate: float | None
    completed_rate: float
    images_per_s: float
    percentile: float
    budget_ms: float | None
    at_percentile_ms: float
    mean_ms: float
    min_ms: float
    max_ms: float
    percentiles_ms: Mapping[str, float]
    over_budget: int
    issue_delay_mean_ms: float
    issue_delay_p99_ms: float
    estimate_ms: float | None
    errors: int
    first_error: str | None
    checked: int
    wrong: int
    client_cores: float
    client_limit: str | None
    server: ServerSplit | None
    load_before: float | None
    load_after: float | None
    histogram: str = field(repr=False)
    loadgen: Mapping[str, Any] = field(default_factory=dict, repr=False)
    folder: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {**asdict(self), "scenario": self.scenario.value}
