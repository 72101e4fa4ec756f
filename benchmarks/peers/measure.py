"""Measure one peer in one workload, and keep what was found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import delugeserve
from benchmarks.peers import servers
from benchmarks.peers.grpc_sender import OpenGrpc
from benchmarks.peers.http_sender import OpenHttp
from benchmarks.peers.interface import (
    APPS,
    GRPC,
    REQUIREMENTS,
    Batching,
    Launch,
    Model,
    Peer,
)
from benchmarks.peers.servers import StartError
from benchmarks.peers.workload import TOLERANCE, Workload
from delugeserve.errors import DelugeServeError
from delugeserve.load import (
    LoadResult,
    OpenSender,
    Settings,
    Target,
    find_rate,
    open_sender,
    run,
)
from delugeserve.system.files import atomic_write
from delugeserve_client import ClientError

_TIMEOUT = 30.0  # seconds for a request


@dataclass(frozen=True)
class Cell:
    """One figure of the tables, in one round.

    Attributes:
        model: the model's name.
        workload: the workload's name.
        peer: the peer's name.
        turn: the round, from 0.
        delay: seconds that the peer waits for more images; None if it is not told.
    """

    model: str
    workload: str
    peer: str
    turn: int
    delay: float | None = None

    def file(self, folder: Path) -> Path:
        """Return where its outcome is kept."""
        delay = "" if self.delay is None else f"-{self.delay * 1e3:g}ms"
        return folder / f"{self.model}-{self.workload}-{self.peer}{delay}-{self.turn}.json"


@dataclass(frozen=True)
class Outcome:
    """What was found for a cell.

    Attributes:
        cell: the cell.
        version: version of the peer.
        identity: digest of all that decides the figures, see :func:`identify`.
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
    identity: str = ""
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
class Task:
    """A cell with what it takes to measure it.

    Attributes:
        cell: the cell.
        peer: the server.
        python: the interpreter of its environment.
        version: its version.
        model: the model.
        workload: what is sent.
        log: file for the server's output.
    """

    cell: Cell
    peer: Peer
    python: Path
    version: str
    model: Model
    workload: Workload
    log: Path


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

    def batching_of(self, peer: Peer, delay: float | None) -> Batching:
        """Return the batching with a peer's delay, and its workers, which share the cores."""
        workers = peer.workers(self.cores)
        threads = max(1, self.cores // workers) if workers > 1 else 0
        return replace(self.batching, delay=delay or 0.0, workers=workers, threads=threads)


def measure(
    task: Task,
    search: Search,
    *,
    start: float | None = None,
    on_trial: Callable[[LoadResult], None] = lambda _: None,
) -> Outcome:
    """Start a peer, search its rate, and test it at half of that.

    Args:
        task: what is measured.
        search: how.
        start: the rate to begin with.
        on_trial: called with each test.

    Returns:
        What was found; with ``failure`` if the peer did not start or did not last.
    """
    tests: list[LoadResult] = []

    def tried(result: LoadResult) -> None:
        tests.append(result)
        on_trial(result)

    outcome = Outcome(task.cell, task.version, identify(task))
    try:
        outcome = _measure(outcome, task, search, start, tried)
    except (StartError, DelugeServeError, ClientError) as error:
        outcome = replace(outcome, failure=str(error))
    load = tests[0].load_before if tests else None
    return replace(outcome, load=load, tests=tuple(test.as_json() for test in tests))


def _measure(
    outcome: Outcome,
    task: Task,
    search: Search,
    start: float | None,
    tried: Callable[[LoadResult], None],
) -> Outcome:
    peer, model, workload = task.peer, task.model, task.workload
    with servers.folder() as folder:
        batching = search.batching_of(peer, outcome.cell.delay)
        launch = Launch(task.python, model, batching, *servers.free_ports(), folder)
        with servers.serve(peer, launch, workload, task.log) as running:
            target = Target(
                running.url,
                model.name,
                workload.inputs,
                workload.answers,
                timeout=_TIMEOUT,
                tolerance=TOLERANCE,
            )
            sender = sender_of(peer, model, workload)
            found = find_rate(
                target,
                search.settings,
                precision=search.precision,
                start=start,
                sender=sender,
                on_trial=tried,
            )
            used = running.cpu_seconds()
            half = run(target, replace(search.settings, rate=found.rate / 2), sender=sender)
            used = running.cpu_seconds() - used
            memory = running.memory()
    tried(half)
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
        start_seconds=running.seconds,
        memory=memory,
        failure=None if half.valid else f"at half of the rate: {' '.join(half.reasons)}",
    )


def identify(task: Task) -> str:
    """Return a digest of all that decides a task's figures, so that no table mixes two of them.

    It is of the peer's version, requirements and app, of the artefact and its ``config.pbtxt``, and
    of the source of our own server.
    """
    digest = hashlib.sha256(f"{task.peer.name} {task.version}".encode())
    package = Path(delugeserve.__file__).parent
    files = [task.model.artefact, *task.model.artefact.parent.glob("model.bin")]
    if task.peer.installed:
        files += task.model.repository.glob(f"{task.model.name}*/config.pbtxt")
        files += [*package.glob("serving/**/*.py"), *package.glob("runtimes/*.py")]
    else:
        files += [REQUIREMENTS / f"{task.peer.name}.txt", *APPS.glob("engine.py")]
        files += [*APPS.glob(f"{task.peer.name}_app.py"), *package.glob("runtimes/*engine.py")]
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def sender_of(peer: Peer, model: Model, workload: Workload) -> OpenSender:
    """Return what sends a workload to a peer."""
    if workload.name == GRPC:
        form = peer.forms[GRPC]
        return open_sender if form is None else OpenGrpc(model, form, workload.images)
    return OpenHttp(model, peer.http_form(workload.name), workload.images)
