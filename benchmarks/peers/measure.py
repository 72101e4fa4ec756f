"""Measure one peer in one workload, and keep what was found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.peers import servers
from benchmarks.peers.http_sender import OpenHttp
from benchmarks.peers.interface import GRPC, Batching, Launch, Model, Peer
from benchmarks.peers.workload import TOLERANCE, Workload
from delugeserve.load import (
    BudgetError,
    LoadResult,
    OpenSender,
    Settings,
    Target,
    find_rate,
    open_sender,
    run,
)
from delugeserve.system.files import atomic_write

_TIMEOUT = 30.0  # seconds for a request


@dataclass(frozen=True)
class Cell:
    """One figure of the tables, in one round.

    Attributes:
        model: the model's name.
        workload: the workload's name.
        peer: the peer's name.
        turn: the round, from 0.
    """

    model: str
    workload: str
    peer: str
    turn: int

    def file(self, folder: Path) -> Path:
        """Return where its outcome is kept."""
        return folder / f"{self.model}-{self.workload}-{self.peer}-{self.turn}.json"


@dataclass(frozen=True)
class Outcome:
    """What was found for a cell.

    Attributes:
        cell: the cell.
        version: version of the peer.
        rate: highest rate of arrivals, in queries/s, that keeps the latency budget; None if none
            does.
        p99_ms: 99th percentile of the latency at this rate.
        half_rate: half of this rate, as it was scheduled.
        half_p50_ms: median latency at half of the rate.
        half_p99_ms: 99th percentile there.
        half_cpu_ms: CPU time of the server for a query there, with that of the warm-up.
        alone_p50_ms: median latency of one request at a time.
        client_cores: cores that the client used at the highest rate.
        start_seconds: from the start of the server to its first answer.
        memory: memory of the server's processes, in bytes, after the test.
        load: load average of the machine (1 minute) before the first test.
        failure: why there is no rate.
        tests: every load test, as :class:`delugeserve.load.LoadResult` writes it.
    """

    cell: Cell
    version: str
    rate: float | None = None
    p99_ms: float | None = None
    half_rate: float | None = None
    half_p50_ms: float | None = None
    half_p99_ms: float | None = None
    half_cpu_ms: float | None = None
    alone_p50_ms: float | None = None
    client_cores: float | None = None
    start_seconds: float | None = None
    memory: int | None = None
    load: float | None = None
    failure: str | None = None
    tests: tuple[dict[str, Any], ...] = ()

    def write(self, folder: Path) -> None:
        """Keep it, atomically."""
        with atomic_write(self.cell.file(folder)) as path:
            path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_outcome(path: Path) -> Outcome:
    """Read an outcome that was kept."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return Outcome(**{**values, "cell": Cell(**values["cell"]), "tests": tuple(values["tests"])})


@dataclass(frozen=True)
class Search:
    """How a rate is searched.

    Attributes:
        settings: of each load test; the rate is chosen.
        precision: the share by which the highest VALID rate and the lowest INVALID one may differ.
        batching: of the peers.
        cores: number of cores, from which a peer's number of workers follows.
    """

    settings: Settings
    precision: float
    batching: Batching
    cores: int

    def batching_of(self, peer: Peer) -> Batching:
        """Return the batching with a peer's workers, which share the cores."""
        workers = peer.workers(self.cores)
        threads = max(1, self.cores // workers) if workers > 1 else 0
        return replace(self.batching, workers=workers, threads=threads)


def measure(
    cell: Cell,
    peer: Peer,
    python: Path,
    version: str,
    model: Model,
    workload: Workload,
    search: Search,
    log: Path,
    *,
    start: float | None = None,
    on_trial: Callable[[LoadResult], None] = lambda _: None,
) -> Outcome:
    """Start a peer, search its rate, and test it at half of that.

    Args:
        cell: what is measured.
        peer: the server.
        python: the interpreter of its environment.
        version: its version.
        model: the model.
        workload: what is sent.
        search: how.
        log: file for the server's output.
        start: the rate to begin with.
        on_trial: called with each test.
    """
    ports = servers.free_ports()
    tests: list[LoadResult] = []

    def tried(result: LoadResult) -> None:
        tests.append(result)
        on_trial(result)

    with servers.folder() as folder:
        launch = Launch(python, model, search.batching_of(peer), *ports, folder)
        with servers.serve(peer, launch, workload, log) as running:
            outcome = Outcome(cell, version, start_seconds=running.seconds)
            target = Target(
                running.url,
                model.name,
                workload.inputs,
                workload.answers,
                timeout=_TIMEOUT,
                tolerance=TOLERANCE,
            )
            sender = sender_of(peer, model, workload)
            try:
                found = find_rate(
                    target,
                    search.settings,
                    precision=search.precision,
                    start=start,
                    sender=sender,
                    on_trial=tried,
                )
            except BudgetError as error:
                kept = tuple(test.as_json() for test in tests)
                return replace(outcome, failure=str(error), tests=kept, load=_load(tests))
            used = running.cpu_seconds()
            half = run(target, replace(search.settings, rate=found.rate / 2), sender=sender)
            used = running.cpu_seconds() - used
            tried(half)
            memory = running.memory()
    return replace(
        outcome,
        rate=found.rate,
        p99_ms=found.best.percentiles_ms["99"],
        half_rate=half.scheduled_rate,
        half_p50_ms=half.percentiles_ms["50"],
        half_p99_ms=half.percentiles_ms["99"],
        half_cpu_ms=1e3 * used / half.queries,
        alone_p50_ms=found.alone.percentiles_ms["50"],
        client_cores=found.best.client_cores,
        memory=memory,
        load=_load(tests),
        failure=None if half.valid else f"at half of the rate: {' '.join(half.reasons)}",
        tests=tuple(test.as_json() for test in tests),
    )


def sender_of(peer: Peer, model: Model, workload: Workload) -> OpenSender:
    """Return what sends a workload to a peer."""
    if workload.name == GRPC:
        return open_sender
    return OpenHttp(model, peer.http_form(workload.name), workload.images)


def _load(tests: list[LoadResult]) -> float | None:
    return tests[0].load_before if tests else None
