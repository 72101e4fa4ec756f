"""The figures of a benchmark, from a client's samples and the server's statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

_SIGNIFICANT_DIGITS = 6


@dataclass(frozen=True)
class Measurement:
    """Latency and throughput at one batch size and one concurrency.

    Attributes:
        model: the model's name.
        batch_size: images per request.
        concurrency: requests in flight.
        requests: requests answered in the measured time.
        errors: requests that failed; they are not part of the other figures.
        seconds: from the first request sent to the last answer.
        images_per_s: images answered per second.
        mean_ms: mean latency of a request as the client sees it, in milliseconds.
        p50_ms: median latency.
        p90_ms: 90th percentile of latency.
        p95_ms: 95th percentile of latency.
        p99_ms: 99th percentile of latency.
        queue_ms: mean time that a request waited in the server's queue. This and the figures below
            come from the server and count all of its clients.
        compute_input_ms: mean time to gather the inputs.
        compute_infer_ms: mean time to run the model.
        compute_output_ms: mean time to return the outputs.
        executed_batch: mean number of images per execution of the model, after dynamic batching.
    """

    model: str
    batch_size: int
    concurrency: int
    requests: int
    errors: int
    seconds: float
    images_per_s: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    queue_ms: float
    compute_input_ms: float
    compute_infer_ms: float
    compute_output_ms: float
    executed_batch: float

    def rounded(self) -> dict[str, str | int | float]:
        """Return the figures by name, with six significant digits, for CSV and JSON."""
        return {
            name: float(f"{value:.{_SIGNIFICANT_DIGITS}g}") if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


@dataclass
class Samples:
    """What a closed loop measured.

    Attributes:
        latencies: latency of each answered request, in seconds.
        errors: the error of each failed request.
        seconds: how long the loop ran.
    """

    latencies: list[float] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class PartStatistics:
    """What Triton counts of one part of its requests.

    Attributes:
        count: number of requests.
        ns: their total time, in nanoseconds.
    """

    count: int = 0
    ns: int = 0

    @property
    def mean_ms(self) -> float:
        """Mean time per request, in milliseconds; 0 without requests."""
        return self.ns / max(self.count, 1) / 1e6


@dataclass(frozen=True)
class ServerStatistics:
    """What Triton counts for a model, summed over its versions.

    Attributes:
        inferences: number of images.
        executions: number of executions of the model, each with a batch of images.
        queue: time in the queue.
        compute_input: time to gather the inputs.
        compute_infer: time to run the model.
        compute_output: time to return the outputs.
    """

    inferences: int = 0
    executions: int = 0
    queue: PartStatistics = PartStatistics()
    compute_input: PartStatistics = PartStatistics()
    compute_infer: PartStatistics = PartStatistics()
    compute_output: PartStatistics = PartStatistics()

    def since(self, before: ServerStatistics) -> ServerStatistics:
        """Return what was counted after an earlier reading."""

        def part(name: str) -> PartStatistics:
            now, then = getattr(self, name), getattr(before, name)
            return PartStatistics(now.count - then.count, now.ns - then.ns)

        return ServerStatistics(
            self.inferences - before.inferences,
            self.executions - before.executions,
            part("queue"),
            part("compute_input"),
            part("compute_infer"),
            part("compute_output"),
        )


def read_statistics(reply: Mapping[str, Any]) -> ServerStatistics:
    """Read Triton's statistics of a model.

    Args:
        reply: the statistics as JSON, of either protocol; gRPC's omits zeros.
    """
    versions = reply.get("model_stats", [])

    def total(name: str) -> int:
        return sum(int(version.get(name, 0)) for version in versions)

    def part(name: str) -> PartStatistics:
        counters = [version.get("inference_stats", {}).get(name, {}) for version in versions]
        return PartStatistics(
            sum(int(counter.get("count", 0)) for counter in counters),
            sum(int(counter.get("ns", 0)) for counter in counters),
        )

    return ServerStatistics(
        total("inference_count"),
        total("execution_count"),
        part("queue"),
        part("compute_input"),
        part("compute_infer"),
        part("compute_output"),
    )


def summarise(
    model: str, batch_size: int, concurrency: int, samples: Samples, server: ServerStatistics
) -> Measurement:
    """Turn samples and the server's statistics into figures.

    Args:
        model: the model's name.
        batch_size: images per request.
        concurrency: requests in flight.
        samples: what the client measured, at least one latency.
        server: what the server counted in the same time.
    """
    milliseconds = np.asarray(samples.latencies) * 1e3
    p50, p90, p95, p99 = (float(p) for p in np.percentile(milliseconds, (50, 90, 95, 99)))
    return Measurement(
        model=model,
        batch_size=batch_size,
        concurrency=concurrency,
        requests=len(milliseconds),
        errors=len(samples.errors),
        seconds=samples.seconds,
        images_per_s=len(milliseconds) * batch_size / samples.seconds,
        mean_ms=float(milliseconds.mean()),
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        queue_ms=server.queue.mean_ms,
        compute_input_ms=server.compute_input.mean_ms,
        compute_infer_ms=server.compute_infer.mean_ms,
        compute_output_ms=server.compute_output.mean_ms,
        executed_batch=server.inferences / max(server.executions, 1),
    )
