"""Load on a server from clients that never retry, and what became of their requests."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from chaos_clients import KINDS, TIMEOUT, Kind, Request, make_client
from chaos_repository import KnownModel

_AFTER_FAILURE = 0.2  # seconds until a client asks again that got no answer


class Load:
    """Clients in threads, each with a connection of its own; a context manager.

    Args:
        addresses: ``host:port`` for gRPC and for HTTP.
        models: whom they ask, in turn.
        clients: their number.
        pause: seconds between an answer and the next request of a client.
        kinds: what they send, in turn.
    """

    def __init__(
        self,
        addresses: tuple[str, str],
        models: Sequence[KnownModel],
        clients: int = 16,
        pause: float = 0.0,
        kinds: Sequence[Kind] = KINDS,
    ) -> None:
        self.clients = clients
        self._addresses, self._pause = addresses, pause
        self._requests: list[Request] = []
        self._done = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._ask,
                args=(models[number % len(models)], kinds[number // len(models) % len(kinds)]),
                daemon=True,
            )
            for number in range(clients)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send nothing more, and wait for the answers that are due."""
        self._done.set()
        for thread in self._threads:
            thread.join(2 * TIMEOUT)

    def requests(self) -> list[Request]:
        """Return the requests that have ended so far."""
        return list(self._requests)

    def wait_for_all(self, seconds: float = TIMEOUT) -> None:
        """Wait until the load has got as many right answers as there are clients.

        Raises:
            TimeoutError: it did not.
        """
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            right = [r for r in self.requests() if r.start >= start and r.outcome == "right"]
            if len(right) >= self.clients:
                return
            time.sleep(0.05)
        raise TimeoutError(f"The clients got no answers for {seconds:g} s.")

    def _ask(self, model: KnownModel, kind: Kind) -> None:
        with contextlib.closing(make_client(*self._addresses, model, kind)) as client:
            while not self._done.is_set():
                request = client.ask()
                self._requests.append(request)
                lost = request.outcome in ("failed", "refused")
                pause = _AFTER_FAILURE if lost else self._pause
                if pause:
                    self._done.wait(pause)


@dataclass(frozen=True)
class Summary:
    """What became of requests.

    Attributes:
        requests: their number.
        refused: those that no server was there to take.
        failed: those that were sent and got an error, or no answer.
        wrong: those with another answer than their version has to give.
        slowest_request: the slowest that was answered; None if none was.
        reasons: why they were not answered or are wrong, and how often.
    """

    requests: int
    refused: int
    failed: int
    wrong: int
    slowest_request: Request | None
    reasons: Counter[str]

    @property
    def slowest(self) -> float:
        """Seconds of the slowest request that was answered."""
        return self.slowest_request.seconds if self.slowest_request else 0.0


def summarise(requests: Sequence[Request]) -> Summary:
    """Count requests."""
    outcomes = Counter(request.outcome for request in requests)
    reasons = Counter(request.why.splitlines()[0][:200] for request in requests if request.why)
    answered = [request for request in requests if request.version]
    slowest = max(answered, key=lambda request: request.seconds, default=None)
    return Summary(
        len(requests),
        outcomes["refused"],
        outcomes["failed"],
        outcomes["wrong"],
        slowest,
        reasons,
    )


def percentile(requests: Sequence[Request], percent: float) -> float:
    """Return a percentile of the seconds until an answer, corrected for coordinated omission.

    A client that waits sends nothing meanwhile, although others would have come to wait as well.
    As HdrHistogram does, a request that took ``n`` times as long as the median of its kind is
    counted with the ``n - 1`` that were left out.
    """
    by_kind: dict[tuple[str, Kind], list[float]] = {}
    for request in requests:
        if request.version:
            by_kind.setdefault((request.model, request.kind), []).append(request.seconds)
    if not by_kind:
        return float("nan")
    counted: list[float] = []
    for taken in by_kind.values():
        usual = float(np.median(taken))
        counted += taken
        for one in taken:
            counted += np.arange(one - usual, usual, -usual).tolist()
    return float(np.percentile(counted, percent))


def longest_gap(requests: Sequence[Request], start: float, end: float) -> float:
    """Return the longest time from ``start`` to ``end`` in which no request was answered."""
    ends = sorted(r.end for r in requests if r.outcome == "right" and start <= r.end <= end)
    moments = np.array([start, *ends, end])
    return float(np.diff(moments).max())
