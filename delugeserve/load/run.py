"""Run a load test in a process of its own, and read its result."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from delugeserve.errors import Failure
from delugeserve.load.job import Job, Observed
from delugeserve.load.logs import TRACE
from delugeserve.load.reading import read_result
from delugeserve.load.result import LoadResult, NoAnswerError
from delugeserve.load.scenarios import Scenario, Settings
from delugeserve.load.senders import OpenSender, open_sender
from delugeserve.load.target import Target
from delugeserve.load.worker import perform
from delugeserve.system.imports import require
from delugeserve.system.progress import NO_PROGRESS, Progress

_NEEDS = ("hdrh.histogram", "hpack")
# A request ends with its timeout. A test in which nothing is answered for longer hangs.
_HANGS_AFTER = 30.0


def run(
    target: Target,
    settings: Settings,
    *,
    sender: OpenSender = open_sender,
    output: Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> LoadResult:
    """Run one load test by the rules of MLPerf LoadGen.

    Args:
        target: what to send, and where.
        settings: how requests arrive, and for how long.
        sender: opens what sends the requests; by default one for the target's address.
        output: folder for LoadGen's log files, made if it is missing; None keeps none.
        progress: receives the seconds of the test as steps.

    Raises:
        MissingExtraError: a package of the extra ``benchmark`` is not installed.
        ClientError: the sender cannot connect.
        NoAnswerError: no request was answered.
        Failure: the test's process ended without a result.
    """
    for module in _NEEDS:  # an error of the other process could not name them
        require(module, "benchmark")
    if settings.scenario is not Scenario.CLOSED_LOOP:
        require("mlperf_loadgen", "benchmark")
    with _folder(output) as folder:
        before = _load()
        job = Job(target, settings, sender, folder)
        observed = _in_own_process(job, progress)
        after = _load()
        result = read_result(
            job, observed, load=(before, after), folder=None if output is None else str(output)
        )
        (folder / TRACE).unlink(missing_ok=True)
    return result


@contextlib.contextmanager
def _folder(output: Path | None) -> Iterator[Path]:
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="delugeserve-load-") as name:
        yield Path(name)


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def _in_own_process(job: Job, progress: Progress) -> Observed:
    context = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, theirs), daemon=True)
    process.start()
    theirs.close()
    progress.stage(_describe(job.settings), total=max(1, round(job.settings.duration)))
    try:
        return _wait(job, ours, progress)
    finally:
        process.kill()
        process.join()
        ours.close()


def _wait(job: Job, connection: Connection, progress: Progress) -> Observed:
    limit = job.target.timeout + job.settings.warmup + _HANGS_AFTER
    answered, changed, begun, shown = -1, time.monotonic(), None, 0
    while True:
        if time.monotonic() - changed > limit:
            raise NoAnswerError(
                f"No request was answered for {limit:.0f} s, and none failed.",
                "Look at the server's log, or use a shorter timeout.",
            )
        if not connection.poll(0.5):
            continue
        try:
            message = connection.recv()
        except EOFError:
            raise Failure(
                "The process of the load test ended without a result.",
                "Run the test again; if it happens again, report it with the output above.",
            ) from None
        if isinstance(message, BaseException):
            raise message
        if isinstance(message, Observed):
            return message
        if message != answered:
            answered, changed = message, time.monotonic()
        begun = begun or time.monotonic()
        seconds = min(round(time.monotonic() - begun), round(job.settings.duration))
        progress.advance(seconds - shown, f"{answered:,} answered")
        shown = seconds


def _work(job: Job, connection: Connection) -> None:
    """Perform a test, and send the parent its progress and what was observed, or the error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends this process
    try:
        connection.send(perform(job, lambda answered: _tell(connection, answered)))
    except Exception as error:
        connection.send(error)
    finally:
        connection.close()


def _tell(connection: Connection, answered: int) -> None:
    """Send the parent the number of answers; end this process where the parent has ended."""
    try:
        connection.send(answered)
    except OSError:
        os._exit(1)  # nobody waits for the result, and a test in LoadGen cannot be interrupted


def _describe(settings: Settings) -> str:
    name = settings.scenario.value
    if settings.scenario is Scenario.CLOSED_LOOP:
        return f"{name}, {settings.in_flight} in flight"
    if settings.scenario is Scenario.SERVER:
        return f"{name}, {settings.rate:,.4g} queries/s"
    return name
