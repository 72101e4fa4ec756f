"""One test in this process: a sender, a load, and what was seen of them."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from delugeserve.load.checks import Checker
from delugeserve.load.closed_loop import ClosedLoop, Samples
from delugeserve.load.job import Job, Observed
from delugeserve.load.loadgen import LoadGenTest
from delugeserve.load.scenarios import Scenario
from delugeserve.load.senders.base import Sender
from delugeserve.load.statistics import StatisticsReader
from delugeserve.load.target import Target

_WARMUP_IN_FLIGHT = 8
_TELL_EVERY = 0.5  # seconds
# A thread that has work waits at most this long for the interpreter's lock; Python's default of
# 5 ms would be a large part of the latencies.
_SWITCH_INTERVAL = 0.0002


def perform(job: Job, report: Callable[[int], None] = lambda _: None) -> Observed:
    """Run a test and write LoadGen's log files.

    Args:
        job: the test.
        report: called about twice a second with the number of queries answered so far, after the
            warm-up.

    Raises:
        MissingExtraError: mlcommons-loadgen is not installed.
        ClientError: the sender cannot connect.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL)
    sender = job.open_sender(job.target)
    statistics = StatisticsReader(job.target)
    try:
        _warm_up(sender, job)
        load = _Loop if job.settings.scenario is Scenario.CLOSED_LOOP else LoadGenTest
        test = load(sender, job)
        before = statistics.read()
        with _telling(report, test):
            start, used = time.perf_counter(), time.process_time()
            test.run()
            used, seconds = time.process_time() - used, time.perf_counter() - start
        after = statistics.read()
    finally:
        statistics.close()
        sender.close()
    return Observed(
        answers=test.answers,
        errors=test.errors,
        first_error=test.first_error,
        checked=test.checker.checked,
        wrong=test.checker.wrong,
        cpu_seconds=used,
        seconds=seconds,
        server=after.since(before) if before and after else None,
        latencies=test.latencies,
    )


class _Test(Protocol):
    """A test that runs once."""

    checker: Checker
    latencies: npt.NDArray[np.float64] | None

    @property
    def answered(self) -> int: ...

    @property
    def answers(self) -> int: ...

    @property
    def errors(self) -> int: ...

    @property
    def first_error(self) -> str | None: ...

    def run(self) -> None: ...


@contextlib.contextmanager
def _telling(report: Callable[[int], None], test: _Test) -> Iterator[None]:
    """Report twice a second how many queries were answered."""
    stopped = threading.Event()

    def tell() -> None:
        while not stopped.wait(_TELL_EVERY):
            report(test.answered)

    report(0)
    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        stopped.set()
        teller.join()


class _Loop:
    """A closed loop as a test."""

    def __init__(self, sender: Sender, job: Job) -> None:
        self.checker = Checker(job.target)
        self.latencies: npt.NDArray[np.float64] | None = None
        target = _one_sample(job.target) if job.settings.same_sample else job.target
        self._loop = ClosedLoop(sender, target, job.settings.in_flight, self.checker)
        self._seconds = job.settings.duration
        self._samples = Samples()

    @property
    def answered(self) -> int:  # with errors
        return self._loop.answered + self._loop.failed

    @property
    def answers(self) -> int:
        return self._loop.answered

    @property
    def errors(self) -> int:
        return self._samples.errors

    @property
    def first_error(self) -> str | None:
        return self._samples.first_error

    def run(self) -> None:
        self._samples = self._loop.run(self._seconds)
        self.latencies = np.asarray(self._samples.latencies, np.float64)


def _one_sample(target: Target) -> Target:
    """Return a target with the first image only, as often as a request has images."""
    return dataclasses.replace(target, images=target.images[:1])


def _warm_up(sender: Sender, job: Job) -> None:
    """Send requests for a while, and wait for all answers."""
    settings = job.settings
    loop = settings.scenario is Scenario.CLOSED_LOOP
    in_flight = settings.in_flight if loop else _WARMUP_IN_FLIGHT
    ClosedLoop(sender, job.target, in_flight).run(settings.warmup)
