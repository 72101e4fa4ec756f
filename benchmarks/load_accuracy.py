"""Does a load test measure the latency that there is? Against a stub of known delays.

    python benchmarks/load_accuracy.py

Needs the extra `benchmark`.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import common
import numpy as np
from stub_sender import ANSWER, Delays, OpenStub

from delugeserve.load import LoadResult, Scenario, Settings, Target, run

METHOD = """A stub in the load's process answers each request after a known delay, and records when
it got the request and when it answered. In brackets: by how much the measured figure differs from
the recorded one. LoadGen's latency counts from when a request was scheduled, so the recorded mean
of the Server scenario includes the client's own delay, from the schedule to the stub; percentiles
of delays cannot be added, so those of a busy client are larger than the recorded ones. The stall:
nothing is answered for a second. Requests that were due then are late; a sender that waits for its
answer sees one slow request only."""

RATE = 200.0
CONTESTANTS = {
    "fixed, 10 ms": Delays("fixed", 0.010),
    "exponential, mean 10 ms": Delays("exponential", 0.010),
    "10 ms, and a stall of 1 s": Delays("stall", 0.010, stall_at=1.0, stall=1.0),
}
LOADS = {
    "Server, 200/s": Settings(Scenario.SERVER, rate=RATE, latency_budget=0.1, warmup=0),
    "SingleStream": Settings(Scenario.SINGLE_STREAM, warmup=0),
    "closed loop, 8": Settings(Scenario.CLOSED_LOOP, in_flight=8, warmup=0),
}
IMAGES = np.zeros((8, 2, 2, 3), np.uint8)
TARGET = Target("stub:1", "stub", IMAGES, np.tile(ANSWER, (len(IMAGES), 1)))


def measure(delays: Delays, load: Settings, chosen: Any) -> tuple[LoadResult, np.ndarray]:
    """Return a test's result, and the recorded latencies in milliseconds."""
    few = 20 if chosen.quick else None
    settings = dataclasses.replace(load, duration=chosen.seconds, min_queries=few)
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "times.npy"
        result = run(TARGET, settings, sender=OpenStub(delays, str(record)))
        sent, answered = np.load(record).T
    return result, (answered - sent) * 1e3


def main() -> None:
    chosen = common.start(common.options(__doc__ or "", rounds=1, seconds=5.0), METHOD)
    rows: list[list[str]] = []
    report: list[dict[str, Any]] = []
    for delay_name, delays in CONTESTANTS.items():
        for load_name, load in LOADS.items():
            result, recorded = measure(delays, load, chosen)
            told = {"mean": (result.mean_ms, recorded.mean() + result.issue_delay_mean_ms)}
            for name in ("50", "99", "99.9"):
                value = np.percentile(recorded, float(name), method="inverted_cdf")
                told[f"p{name}"] = (result.percentiles_ms[name], value)
            rows.append(
                [
                    f"{delay_name}; {load_name}",
                    *(f"{got:.2f} ({got / wanted - 1:+.1%})" for got, wanted in told.values()),
                    f"{result.max_ms:.0f}",
                    f"{result.issue_delay_p99_ms:.2f}",
                    "VALID" if result.valid else "INVALID",
                ]
            )
            report.append(
                {
                    "delays": delay_name,
                    "load": load_name,
                    "recorded": {name: float(wanted) for name, (_, wanted) in told.items()},
                    "samples": {name: [got] for name, (got, _) in told.items()},
                    "result": result.as_json(),
                }
            )
    columns = ("delays; load", *told, "max", "client's p99", "verdict")
    common.show("Latency of a stub in ms, and its error", columns, rows)
    common.finish(chosen, report)


if __name__ == "__main__":
    main()
