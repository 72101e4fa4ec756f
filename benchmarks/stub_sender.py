"""A stub that answers after known delays, to check what a load test measures."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from delugeserve.load.senders.base import Done
from delugeserve.load.target import Target

CLASSES = 4
ANSWER = np.full(CLASSES, 0.25, np.float32)
"""The answer for every image."""

_LATE = 1e-3  # seconds; the last bit of a wait is too short for the system's timer


@dataclass(frozen=True)
class Delays:
    """How long requests take.

    Attributes:
        kind: ``fixed``; ``exponential``; or ``stall``, which is fixed but for a time in which
            nothing is answered.
        mean: seconds.
        stall_at: seconds from the first request to the stall.
        stall: its length in seconds.
    """

    kind: Literal["fixed", "exponential", "stall"] = "fixed"
    mean: float = 0.005
    stall_at: float = 1.0
    stall: float = 1.0

    def draw(self, number: int, since_first: float) -> float:
        """Return the delay of a request in seconds.

        Args:
            number: of the request, from 0; the same number has the same delay.
            since_first: seconds from the first request to this one.
        """
        if self.kind == "exponential":
            return float(np.random.default_rng(number).exponential(self.mean))
        end = self.stall_at + self.stall
        if self.kind == "stall" and self.stall_at <= since_first < end:
            return end - since_first + self.mean
        return self.mean


@dataclass(frozen=True)
class OpenStub:
    """Opens a :class:`StubSender`; it can be pickled.

    Attributes:
        delays: how long requests take.
        record: ``.npy`` file for the times of all requests, float64 ``[N, 2]``: sent and answered,
            in seconds; empty keeps none.
        wrong: answer wrongly.
        fail_every: let every Nth request fail; 0 lets none.
        blocking: answer before :meth:`StubSender.send` returns, as a client does that waits.
        same: factor of the delay where a request has the same images as the one before.
    """

    delays: Delays = Delays()
    record: str = ""
    wrong: bool = False
    fail_every: int = 0
    blocking: bool = False
    same: float = 1.0

    def __call__(self, target: Target) -> StubSender:
        """Open a sender."""
        return StubSender(self)


class StubSender:
    """Answers each request after its delay, from one thread, and records when it did."""

    def __init__(self, options: OpenStub) -> None:
        self._options = options
        self._times: list[tuple[float, float]] = []
        self._numbers = itertools.count()
        self._last: tuple[int, ...] = ()
        self._first: float | None = None
        self._queue: list[tuple[float, int, float, int, Done]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def send(self, sample_ids: Sequence[int], done: Done) -> None:  # noqa: D102
        now = time.perf_counter()
        if self._first is None:
            self._first = now
        number = next(self._numbers)
        delay = self._options.delays.draw(number, now - self._first)
        if tuple(sample_ids) == self._last:
            delay *= self._options.same
        self._last = tuple(sample_ids)
        if self._options.blocking:
            time.sleep(delay)
            self._finish(number, now, len(sample_ids), done)
            return
        entry = (now + delay, number, now, len(sample_ids), done)
        with self._changed:
            heapq.heappush(self._queue, entry)
            if self._queue[0] is entry:
                self._changed.notify()

    def _answer(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not self._queue:
                    self._changed.wait()
                if self._closed:
                    return
                wait = self._queue[0][0] - time.perf_counter()
                if wait > _LATE:
                    self._changed.wait(wait - _LATE)
                    continue
            while (wait := self._queue[0][0] - time.perf_counter()) > 0:
                time.sleep(wait / 2)
            with self._changed:
                _, number, sent, count, done = heapq.heappop(self._queue)
            self._finish(number, sent, count, done)

    def _finish(self, number: int, sent: float, count: int, done: Done) -> None:
        self._times.append((sent, time.perf_counter()))
        every = self._options.fail_every
        if every and number % every == every - 1:
            done(None, "UNAVAILABLE: stub")
        else:
            answer = ANSWER * (2 if self._options.wrong else 1)
            done(answer.tobytes() * count, None)

    def close(self) -> None:  # noqa: D102
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        if self._options.record:
            np.save(self._options.record, np.asarray(self._times, np.float64))
