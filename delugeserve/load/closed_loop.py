"""A closed loop: a fixed number of requests in flight."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from delugeserve.load.checks import Checker
from delugeserve.load.senders.base import Sender, send_once
from delugeserve.load.target import Target

# A loop ends after this many errors in a row: a server that is gone fails at once, and a loop of
# errors measures nothing.
_MAX_ERRORS_IN_A_ROW = 10


@dataclass
class Samples:
    """What a closed loop measured.

    Attributes:
        latencies: latency of each answered request, in seconds.
        errors: number of failed requests.
        first_error: what the first of them said.
        seconds: from the first request to the last answer.
    """

    latencies: list[float] = field(default_factory=list)
    errors: int = 0
    first_error: str | None = None
    seconds: float = 0.0


class ClosedLoop:
    """Sends the next request when one is answered, so that as many are in flight throughout.

    Args:
        sender: sends the requests.
        target: what to send; each request holds the next images of it.
        in_flight: number of requests in flight.
        checker: compares the answers.
        clock: returns the time in seconds.

    Attributes:
        answered: requests answered so far.
        failed: requests that failed so far.
    """

    def __init__(
        self,
        sender: Sender,
        target: Target,
        in_flight: int,
        checker: Checker | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._sender, self._in_flight, self._checker = sender, in_flight, checker
        self._clock = clock
        count, images = target.batch_size, len(target.images)
        self._turns = [
            [(first + i) % images for i in range(count)]
            for first in range(0, images * count, count)
        ]
        self._next = 0
        self.answered, self.failed = 0, 0

    def run(self, seconds: float) -> Samples:
        """Send requests for some seconds, then wait for those still in flight."""
        samples = Samples()
        if seconds <= 0:
            return samples
        landed = threading.Semaphore(0)
        start = self._clock()
        end = start + seconds
        for _ in range(self._in_flight):
            self._send(samples, landed, end, 0)
        for _ in range(self._in_flight):
            landed.acquire()
        samples.seconds = self._clock() - start
        return samples

    def _send(self, samples: Samples, landed: threading.Semaphore, end: float, failed: int) -> None:
        if not self._sent(samples, landed, end, failed):
            landed.release()

    def _sent(self, samples: Samples, landed: threading.Semaphore, end: float, failed: int) -> bool:
        """Send the next request, and return whether there was time for one."""
        sent = self._clock()
        if sent >= end or failed >= _MAX_ERRORS_IN_A_ROW:
            return False
        turn = self._turns[self._next % len(self._turns)]
        self._next += 1

        def done(answer: bytes | None, error: str | None) -> None:
            if answer is None:
                samples.errors += 1
                self.failed += 1
                samples.first_error = samples.first_error or error
                self._send(samples, landed, end, failed + 1)
                return
            samples.latencies.append(self._clock() - sent)
            self.answered += 1
            goes_on = self._sent(samples, landed, end, 0)
            if self._checker is not None:  # the next request does not wait for it
                self._checker.check(turn, answer)
            if not goes_on:
                landed.release()

        send_once(self._sender, turn, done)
        return True
