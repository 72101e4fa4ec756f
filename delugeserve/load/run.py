"""Run a load test in a process of its own, and read its result."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from delugeserve.errors import Failure
from delugeserve.load.loadgen import Job, Observed, images_per_query, perform
from delugeserve.load.logs import TRACE, read_detail, read_times
from delugeserve.load.result import LoadResult
from delugeserve.load.scenarios import Scenario, Settings
from delugeserve.load.senders import OpenSender, open_sender
from delugeserve.load.target import Target
from delugeserve.system.imports import require
from delugeserve.system.progress import NO_PROGRESS, Progress

_PERCENTILES = (50, 90, 95, 99, 99.9)
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
        MissingExtraError: mlcommons-loadgen is not installed.
        ClientError: the sender cannot connect.
        Failure: the test's process ended without a result.
    """
    require("mlperf_loadgen", "benchmark")
    with _folder(output) as folder:
        before = _load()
        observed = _in_own_process(Job(target, settings, sender, folder), progress)
        after = _load()
        result = _read(target, settings, folder, observed, (before, after), output)
        (folder / TRACE).unlink()
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
            raise Failure(
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
                "Run the test again; if it ends so again, report it with the output above.",
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
    try:
        connection.send(perform(job, connection.send))
    except Exception as error:
        connection.send(error)
    finally:
        connection.close()


def _describe(settings: Settings) -> str:
    name = settings.scenario.value
    if settings.scenario is Scenario.SERVER:
        return f"{name}, {settings.rate:,.4g} queries/s"
    return name


def _read(
    target: Target,
    settings: Settings,
    folder: Path,
    observed: Observed,
    load: tuple[float | None, float | None],
    output: Path | None,
) -> LoadResult:
    detail = read_detail(folder)
    times = read_times(folder, by_sample=settings.scenario is Scenario.OFFLINE)
    latency = times.latency * 1e3
    images = images_per_query(target, settings)
    server = settings.scenario is Scenario.SERVER
    seconds = float(np.max(times.scheduled + times.latency) - times.scheduled[0])
    queries = len(latency)
    reasons = _reasons(detail, observed)
    budget = settings.latency_budget * 1e3
    percentiles = dict(
        zip(map(str, _PERCENTILES), np.percentile(latency, _PERCENTILES).tolist(), strict=True)
    )
    return LoadResult(
        model=target.model,
        url=target.url,
        scenario=settings.scenario,
        batch_size=settings.streams
        if settings.scenario is Scenario.MULTI_STREAM
        else target.batch_size,
        valid=not reasons,
        reasons=reasons,
        queries=queries,
        seconds=seconds,
        scheduled_rate=detail.get("result_scheduled_samples_per_sec") if server else None,
        completed_rate=queries / seconds,
        images_per_s=queries * images / seconds,
        percentile=settings.percentile,
        budget_ms=budget if server else None,
        at_percentile_ms=float(np.percentile(latency, settings.percentile * 100)),
        mean_ms=float(latency.mean()),
        min_ms=float(latency.min()),
        max_ms=float(latency.max()),
        percentiles_ms=percentiles,
        over_budget=int((latency > budget).sum()) if server else 0,
        issue_delay_p99_ms=float(np.percentile(times.issue_delay, 99) * 1e3),
        errors=observed.errors,
        first_error=observed.first_error,
        checked=observed.checked,
        wrong=observed.wrong,
        client_cores=observed.cpu_seconds / observed.seconds,
        load_before=load[0],
        load_after=load[1],
        loadgen={key: value for key, value in detail.items() if key.startswith(_LOGGED)},
        folder=str(output) if output is not None else None,
    )


_LOGGED = ("result_", "early_stopping", "error_", "generic_warning", "generic_error")


def _reasons(detail: Mapping[str, Any], observed: Observed) -> tuple[str, ...]:
    """Return why a result does not hold: LoadGen's reasons, then ours."""
    reasons: list[str] = []
    if detail.get("result_validity") != "VALID":
        said = [detail.get("result_invalid_reason"), detail.get("early_stopping_result")]
        reasons += [" ".join(text.replace(" * ", "").split()) for text in said if text]
    if observed.errors:
        reasons.append(f"{observed.errors:,} requests failed ({observed.first_error}).")
    if observed.wrong:
        reasons.append(f"{observed.wrong:,} of {observed.checked:,} answers were wrong.")
    return tuple(reasons)
