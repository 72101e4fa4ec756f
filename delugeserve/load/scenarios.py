"""The scenarios of MLPerf LoadGen, and the settings of a test."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import isfinite

from delugeserve.errors import UsageError


class Scenario(str, Enum):
    """How requests arrive, as the MLPerf inference rules define it.

    See https://github.com/mlcommons/inference_policies/blob/master/inference_rules.adoc.
    """

    SINGLE_STREAM = "single-stream"
    """One request at a time; the next is sent when the last is answered."""
    MULTI_STREAM = "multi-stream"
    """One query of several samples at a time, such as the frames of eight cameras."""
    SERVER = "server"
    """Queries of one sample arrive at random times (a Poisson process) at a given mean rate."""
    OFFLINE = "offline"
    """All samples are there at the start; only the throughput counts."""
    CLOSED_LOOP = "closed-loop"
    """A fixed number of requests in flight. This one is not LoadGen's but perf_analyzer's."""


@dataclass(frozen=True)
class Settings:
    """Settings of one test.

    Attributes:
        scenario: how requests arrive.
        duration: least duration of the test, in seconds.
        rate: mean rate of arrivals in queries/s (server scenario); for offline the rate to expect,
            from which LoadGen chooses how many samples to send.
        latency_budget: the time, in seconds, within which a query must be answered for the server
            scenario to be VALID.
        percentile: the share of queries that must keep the budget, in (0, 1).
        min_queries: least number of queries. None takes what the percentile needs to be estimated
            with 99 % confidence by LoadGen's early stopping.
        streams: samples in each query of the multi-stream scenario.
        in_flight: number of requests in flight of a closed loop, and the largest number in the
            offline scenario.
        same_sample: send one sample again and again, as MLPerf's audit TEST04 does.
        warmup: seconds of requests before the test, which do not count: of a closed loop as many
            in flight as in the test, otherwise eight.
        seed: chooses the samples and the times of arrival.
    """

    scenario: Scenario = Scenario.SERVER
    duration: float = 10.0
    rate: float = 100.0
    latency_budget: float = 0.1
    percentile: float = 0.99
    min_queries: int | None = None
    streams: int = 8
    in_flight: int = 32
    warmup: float = 1.0
    seed: int = 0
    same_sample: bool = False

    def __post_init__(self) -> None:
        for name, value in (
            ("duration", self.duration),
            ("rate", self.rate),
            ("latency budget", self.latency_budget),
        ):
            if not (isfinite(value) and value > 0):
                raise UsageError(
                    f"The {name} of a load test must be a number above 0, not {value:g}.",
                    f"Choose a {name} above 0.",
                )
        if not 0 < self.percentile < 1:
            raise UsageError(
                f"A percentile must lie between 0 and 100, not at {self.percentile * 100:g}.",
                "Choose a percentile such as 99.",
            )
        if min(self.streams, self.in_flight) < 1 or self.warmup < 0:
            raise UsageError(
                "Streams and requests in flight must be 1 or more, and the warm-up not negative.",
                "Choose larger numbers.",
            )
