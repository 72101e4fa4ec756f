"""What Triton counts of a model's requests, and where their time went."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from delugeserve.load.target import Target
from delugeserve_client import ClientError
from delugeserve_client.server import ServerDescription

_COUNTED_AFTER = 0.05  # seconds; the server counts a request after it has sent the answer


@dataclass(frozen=True)
class ServerSplit:
    """Where a server spent the time of its requests; it counts all of its clients.

    Attributes:
        queue_ms: mean time of a request in the queue.
        compute_input_ms: mean time to gather the inputs.
        compute_infer_ms: mean time to run the model.
        compute_output_ms: mean time to return the outputs.
        executed_batch: mean number of images per execution of the model, after dynamic batching.
    """

    queue_ms: float
    compute_input_ms: float
    compute_infer_ms: float
    compute_output_ms: float
    executed_batch: float

    @property
    def compute_ms(self) -> float:
        """Mean time of input, inference and output."""
        return self.compute_input_ms + self.compute_infer_ms + self.compute_output_ms


@dataclass(frozen=True)
class Counters:
    """What Triton has counted for a model, summed over its versions.

    Attributes:
        inferences: number of images.
        executions: number of executions of the model, each with a batch of images.
        counts: number of requests by part: ``queue``, ``compute_input``, ``compute_infer`` and
            ``compute_output``.
        ns: their total time in nanoseconds, by part.
    """

    inferences: int
    executions: int
    counts: Mapping[str, int]
    ns: Mapping[str, int]

    def since(self, before: Counters) -> ServerSplit:
        """Return the means of what was counted after an earlier reading; 0 without requests."""

        def mean_ms(part: str) -> float:
            return (self.ns[part] - before.ns[part]) / max(
                self.counts[part] - before.counts[part], 1
            ) / 1e6  # fmt: skip

        executions = self.executions - before.executions
        return ServerSplit(
            mean_ms("queue"),
            mean_ms("compute_input"),
            mean_ms("compute_infer"),
            mean_ms("compute_output"),
            (self.inferences - before.inferences) / max(executions, 1),
        )


_PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


def read_counters(reply: Mapping[str, Any]) -> Counters:
    """Read Triton's statistics of a model.

    Args:
        reply: the statistics as JSON, of either protocol; gRPC's omits zeros.
    """
    versions = reply.get("model_stats", [])

    def part(name: str, key: str) -> int:
        return sum(
            int(version.get("inference_stats", {}).get(name, {}).get(key, 0))
            for version in versions
        )

    def total(name: str) -> int:
        return sum(int(version.get(name, 0)) for version in versions)

    return Counters(
        total("inference_count"),
        total("execution_count"),
        {name: part(name, "count") for name in _PARTS},
        {name: part(name, "ns") for name in _PARTS},
    )


class StatisticsReader:
    """Reads a target's counters, where its server is Triton and answers.

    A server that is not Triton, or that refuses these calls, has no counters.
    """

    def __init__(self, target: Target) -> None:
        self._model = target.model
        self._server: ServerDescription | None = None
        if target.server_version:
            self._server = ServerDescription(target.url, target.timeout, target.credentials)

    def read(self) -> Counters | None:
        """Return what was counted until now; None where there is nothing to read."""
        if self._server is None:
            return None
        time.sleep(_COUNTED_AFTER)
        try:
            reply = self._server.read("statistics", self._model)
        except ClientError:
            return None
        return read_counters(reply)

    def close(self) -> None:
        """Close the connection."""
        if self._server is not None:
            self._server.close()
