"""Tests with MLPerf LoadGen: what LoadGen issues is given to a sender.

LoadGen keeps global state, cannot be interrupted, and measures its process's delays along with the
server's. :mod:`delugeserve.load.run` therefore gives each test a process of its own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delugeserve.load.checks import Checker
from delugeserve.load.job import Job
from delugeserve.load.scenarios import Scenario, Settings
from delugeserve.load.senders.base import Sender, send_once
from delugeserve.system.imports import require

_SCENARIOS = {
    Scenario.SINGLE_STREAM: "SingleStream",
    Scenario.MULTI_STREAM: "MultiStream",
    Scenario.SERVER: "Server",
    Scenario.OFFLINE: "Offline",
}
_SETTLES_IN = 5.0  # seconds
_CONFIDENCE = 0.99  # of LoadGen's early stopping


def min_queries(settings: Settings) -> int:
    """Return the least number of queries from which LoadGen's early stopping can tell a percentile.

    It is the least ``n`` for which at most one query over the percentile ``p`` would come by chance
    with a probability of 1 % or less: ``p**n + n * (1 - p) * p**(n - 1)``.
    """
    if settings.min_queries is not None:
        return settings.min_queries
    if settings.scenario is Scenario.OFFLINE:
        return 1
    p, n = settings.percentile, 2
    while p**n + n * (1 - p) * p ** (n - 1) > 1 - _CONFIDENCE:
        n += max(1, n // 1000)
    return n


class LoadGenTest:
    """A test of LoadGen."""

    def __init__(self, sender: Sender, job: Job) -> None:
        self._loadgen = require("mlperf_loadgen", "benchmark")
        self._job = job
        self._issuer = _Issuer(self._loadgen, sender, job)
        self.checker = self._issuer.checker
        self.latencies: npt.NDArray[np.float64] | None = None

    @property
    def answered(self) -> int:
        """Samples answered so far, with errors."""
        return self._issuer.answered

    @property
    def answers(self) -> int:
        """Requests answered."""
        return self._issuer.answers

    @property
    def errors(self) -> int:
        """Requests that failed."""
        return self._issuer.errors

    @property
    def first_error(self) -> str | None:
        """What the first of them said."""
        return self._issuer.first_error

    def run(self) -> None:
        """Run the test, and write LoadGen's log files."""
        loadgen, count = self._loadgen, len(self._job.target.images)
        sut = loadgen.ConstructFastSUT(self._issuer.issue, lambda: None)
        qsl = loadgen.ConstructQSL(count, count, lambda _: None, lambda _: None)
        loadgen.StartTestWithLogSettings(
            sut,
            qsl,
            _test_settings(loadgen, self._job.settings),
            _log_settings(loadgen, self._job.folder),
        )
        self._issuer.settle()
        loadgen.DestroyQSL(qsl)
        loadgen.DestroyFastSUT(sut)


class _Issuer:
    """Turns LoadGen's queries into requests, and answers into completions."""

    def __init__(self, loadgen: Any, sender: Sender, job: Job) -> None:
        self._respond = loadgen.QuerySamplesComplete
        self._response = loadgen.QuerySampleResponse
        self._sender, self._settings = sender, job.settings
        self._images, self._batch = len(job.target.images), job.target.batch_size
        self.checker = Checker(job.target)
        self.errors, self.answers, self.answered = 0, 0, 0
        self.first_error: str | None = None
        self._waiting: deque[tuple[list[int], list[int]]] = deque()  # of the offline scenario
        self._free: list[None] = []
        self._sent, self._settled = 0, 0
        self._sending = threading.Lock()
        scenario = job.settings.scenario
        if scenario is Scenario.OFFLINE:
            self.issue = self._issue_offline
        elif scenario is Scenario.MULTI_STREAM:
            self.issue = self._send
        else:
            self.issue = self._issue_one

    def _issue_one(self, ids: list[int], samples: list[int]) -> None:
        if self._batch == 1:
            self._send(ids, samples)
        else:  # a sample of LoadGen is a request of several images, from this one on
            first = samples[0]
            self._send(ids, [(first + i) % self._images for i in range(self._batch)])

    def _issue_offline(self, ids: list[int], samples: list[int]) -> None:
        for start in range(0, len(ids), self._batch):
            end = start + self._batch
            self._waiting.append((ids[start:end], samples[start:end]))
        self._send_waiting(self._settings.in_flight)

    def _send_waiting(self, more: int) -> None:
        """Allow so many more requests in flight, and send them.

        A sender may call back before it returns. That call only counts, so that a server which
        refuses everything does not fill the stack.
        """
        self._free.extend([None] * more)
        while self._free and self._waiting and self._sending.acquire(blocking=False):
            try:
                while self._free and self._waiting:
                    self._free.pop()
                    self._send(*self._waiting.popleft())
            finally:
                self._sending.release()

    def _send(self, ids: list[int], samples: list[int]) -> None:
        def done(answer: bytes | None, error: str | None) -> None:
            self.answered += len(ids)
            if answer is None:
                self.errors += 1
                self.first_error = self.first_error or error
            else:
                self.answers += 1
            self._respond([self._response(query, 0, 0) for query in ids])  # ends the latency
            if answer is not None:
                self.checker.check(samples, answer)
            if self._waiting:
                self._send_waiting(1)
            self._settled += 1

        self._sent += 1
        send_once(self._sender, samples, done)

    def settle(self) -> None:
        """Wait for the last answers to be compared; LoadGen returns once it knows of them."""
        end = time.monotonic() + _SETTLES_IN
        while self._settled < self._sent and time.monotonic() < end:
            time.sleep(0.001)


def _test_settings(loadgen: Any, settings: Settings) -> Any:
    chosen = loadgen.TestSettings()
    chosen.scenario = getattr(loadgen.TestScenario, _SCENARIOS[settings.scenario])
    chosen.mode = loadgen.TestMode.PerformanceOnly
    chosen.min_duration_ms = round(settings.duration * 1e3)
    chosen.min_query_count = min_queries(settings)
    chosen.server_target_qps = settings.rate
    chosen.server_target_latency_ns = round(settings.latency_budget * 1e9)
    chosen.server_target_latency_percentile = settings.percentile
    chosen.single_stream_target_latency_percentile = settings.percentile
    chosen.multi_stream_target_latency_percentile = settings.percentile
    chosen.multi_stream_samples_per_query = settings.streams
    chosen.offline_expected_qps = settings.rate
    chosen.schedule_rng_seed = settings.seed
    chosen.sample_index_rng_seed = settings.seed
    chosen.qsl_rng_seed = settings.seed
    chosen.performance_issue_same = settings.same_sample
    return chosen


def _log_settings(loadgen: Any, folder: Path) -> Any:
    output = loadgen.LogOutputSettings()
    output.outdir = str(folder)
    log = loadgen.LogSettings()
    log.log_output = output
    log.enable_trace = True  # the only place where LoadGen writes each query's times
    return log
