"""Measure one peer in one workload."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

import delugeserve
import delugeserve_client
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
from benchmarks.peers.outcome import Cell, Outcome, name_delay
from benchmarks.peers.workload import TOLERANCE, Workload
from delugeserve.load import (
    LoadResult,
    OpenSender,
    Scenario,
    Settings,
    Target,
    find_rate,
    open_sender,
    run,
)

_log = logging.getLogger(__name__)

_TIMEOUT = 10.0  # seconds for a request; a hundred times the usual budget
_START = 0.85  # of the rate of a closed loop: about what random arrivals leave of it
_LOWEST = 0.15  # of the same; the search ends there, for tests at low rates take long
_IN_FLIGHT = 32  # of the closed loop


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
        settings: of each test; the rate is chosen.
        probe: seconds of a closed loop.
        precision: the share by which the highest VALID rate and the lowest INVALID one may differ.
        batching: of the peers.
        delays: seconds that a peer waits for more images; the best by a closed loop is taken.
        cores: number of cores, from which a peer's number of workers follows.
    """

    settings: Settings
    probe: float
    precision: float
    batching: Batching
    delays: tuple[float, ...]
    cores: int

    def batching_of(self, peer: Peer, delay: float | None) -> Batching:
        """Return the batching with a peer's delay, and its workers, which share the cores."""
        workers = peer.workers(self.cores)
        threads = max(1, self.cores // workers) if workers > 1 else 0
        return replace(self.batching, delay=delay or 0.0, workers=workers, threads=threads)

    def delays_of(self, peer: Peer) -> tuple[float | None, ...]:
        """Return the delays to try."""
        return self.delays if peer.delayed else (None,)


def measure(
    task: Task, search: Search, on_trial: Callable[[LoadResult], None] = lambda _: None
) -> Outcome:
    """Start a peer, search its rate, and test it at half of that.

    Args:
        task: what is measured.
        search: how.
        on_trial: called with each test.

    Returns:
        What was found; with ``failure`` if the peer did not start or did not last.
    """
    tests: list[LoadResult] = []

    def tried(result: LoadResult) -> LoadResult:
        tests.append(result)
        on_trial(result)
        return result

    started = time.monotonic()
    outcome = Outcome(
        task.cell,
        task.version,
        identify(task),
        datetime.now(timezone.utc).isoformat(timespec="seconds"),
        machine_ms=time_machine(),
    )
    try:
        for known in _stages(outcome, task, search, tried):
            outcome = known
    except Exception as error:  # whatever a peer does, the others are measured
        _log.debug("%s", task.cell, exc_info=True)
        outcome = replace(outcome, failure=_describe(error))
    load = tests[0].load_before if tests else None
    return replace(
        outcome,
        seconds=time.monotonic() - started,
        load=load,
        tests=tuple(test.as_json() for test in tests),
    )


class _Server:
    """A peer that runs, and can be started again at the same address; a context manager."""

    def __init__(self, task: Task, search: Search, delay: float | None) -> None:
        self._task, self._stack = task, contextlib.ExitStack()
        batching = search.batching_of(task.peer, delay)
        ports = servers.free_ports()
        self._launch = Launch(task.python, task.model, batching, *ports, folder=Path())
        self.sender = sender_of(task.peer, task.model, task.workload)

    def __enter__(self) -> _Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self) -> None:
        """Start it; stop it before if it runs."""
        self._stack.close()
        task = self._task
        with contextlib.ExitStack() as stack:
            launch = replace(self._launch, folder=stack.enter_context(servers.folder()))
            running = servers.serve(task.peer, launch, task.workload, task.log)
            self.running = stack.enter_context(running)
            self._stack = stack.pop_all()
        self.target = Target(
            self.running.url,
            task.model.name,
            task.workload.inputs,
            task.workload.answers,
            timeout=_TIMEOUT,
            tolerance=TOLERANCE,
        )


def _stages(
    outcome: Outcome, task: Task, search: Search, tried: Callable[[LoadResult], LoadResult]
) -> Iterator[Outcome]:
    """Return what is known after each stage."""
    with contextlib.ExitStack() as stack:
        delays = search.delays_of(task.peer)
        loops: dict[float | None, float] = {}
        for delay in delays:
            stack.close()
            server = stack.enter_context(_Server(task, search, delay))
            loops[delay] = tried(_probe(server, search)).images_per_s
        best = max(loops, key=loops.__getitem__)
        if best != delays[-1]:
            stack.close()
            server = stack.enter_context(_Server(task, search, best))
        outcome = replace(
            outcome,
            delay=best,
            closed_loop={name_delay(delay): value for delay, value in loops.items()},
            start_seconds=server.running.seconds,
        )
        yield outcome

        def searched(result: LoadResult) -> None:
            tried(result)
            if task.peer.adapts and not result.valid:
                server.start()

        if task.peer.adapts:
            server.start()
        found = find_rate(
            server.target,
            search.settings,
            precision=search.precision,
            start=_START * loops[best],
            lowest=_LOWEST * loops[best],
            sender=server.sender,
            on_trial=searched,
        )
        outcome = replace(
            outcome,
            rate=found.rate,
            p99_ms=found.best.percentiles_ms["99"],
            alone_p50_ms=found.alone.percentiles_ms["50"],
            client_cores=found.best.client_cores,
        )
        yield outcome

        used = server.running.cpu_seconds()
        half = run(
            server.target, replace(search.settings, rate=found.rate / 2), sender=server.sender
        )
        used = server.running.cpu_seconds() - used
        tried(half)
        yield replace(
            outcome,
            half_rate=half.scheduled_rate,
            half_p50_ms=half.percentiles_ms["50"],
            half_p99_ms=half.percentiles_ms["99"],
            half_cpu_ms=1e3 * used / half.queries,
            memory=server.running.memory(),
            failure=None if half.valid else f"at half of the rate: {' '.join(half.reasons)}",
        )


def _probe(server: _Server, search: Search) -> LoadResult:
    settings = replace(
        search.settings,
        scenario=Scenario.CLOSED_LOOP,
        duration=search.probe,
        in_flight=_IN_FLIGHT,
    )
    return run(server.target, settings, sender=server.sender)


def time_machine() -> float:
    """Return the time of a fixed computation on one core, in milliseconds.

    It tells whether the machine was equally fast for all peers.
    """
    data, times = bytes(4 << 20), []
    for _ in range(15):
        start = time.perf_counter()
        hashlib.sha256(data)
        times.append(time.perf_counter() - start)
    return 1e3 * median(times)


def _describe(error: Exception) -> str:
    text = str(error)
    return text if text and not isinstance(error, KeyError) else f"{type(error).__name__}: {text}"


def identify(task: Task) -> str:
    """Return a digest of all that decides a task's figures, so that no table mixes two of them.

    It is of the peer's version, requirements and app, of the artefact and its ``config.pbtxt``, of
    the decoder, and of the source of our own server.
    """
    digest = hashlib.sha256(f"{task.peer.name} {task.version}".encode())
    package = Path(delugeserve.__file__).parent
    client = Path(delugeserve_client.__file__).parent
    files = [task.model.artefact, *task.model.artefact.parent.glob("model.bin")]
    files += [client / "preprocessing.py", client / "formats.py"]
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
