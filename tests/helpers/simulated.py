"""Servers and a clock that exist in a test only, for the client's dispatcher."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field

from delugeserve_client.core.failures import Failure, Kind


@dataclass
class SimulatedServer:
    """A server that computes up to ``batch`` requests at once, and has a queue.

    Attributes:
        seconds: how long a batch takes.
        batch: largest batch.
        queue: number of requests that may wait.
        state: by time, what it does from then on: ``up``, ``gone``, ``hung``, ``draining``,
            ``busy``, ``broken`` or ``refusing``.
    """

    seconds: float = 0.01
    batch: int = 4
    queue: int = 1000
    state: dict[float, str] = field(default_factory=lambda: {0.0: "up"})
    waiting: list = field(default_factory=list)
    computing: bool = False
    served: list = field(default_factory=list)  # times of its answers

    def at(self, now):
        return self.state[max(time for time in self.state if time <= now)]


class SimulatedReactor:
    """Drives a dispatcher through time that passes at once."""

    def __init__(self, servers, seed=0):
        self.time = 0.0
        self.servers = servers
        self.sends = []  # (time, endpoint, request, timeout)
        self._events, self._order = [], itertools.count()
        self._chance = random.Random(seed)

    def now(self):
        return self.time

    def call_later(self, seconds, function):
        assert seconds >= 0
        event = [self.time + seconds, next(self._order), function]
        heapq.heappush(self._events, event)

        def cancel():
            event[2] = None

        return cancel

    def run(self, until=float("inf")):
        while self._events and self._events[0][0] <= until:
            time, _, function = heapq.heappop(self._events)
            self.time = max(self.time, time)
            if function is not None:
                function()
        if until < float("inf"):
            self.time = max(self.time, until)

    def probe(self, endpoint, timeout, done):
        state = self.servers[endpoint].at(self.time)
        if state in ("hung", "gone"):
            self.call_later(timeout if state == "hung" else 0.001, lambda: done(False))
        else:
            self.call_later(0.001, lambda: done(state != "draining"))

    def send(self, endpoint, request, timeout, done):
        assert timeout >= 0
        self.sends.append((self.time, endpoint, request, timeout))
        server = self.servers[endpoint]
        answered = [False]

        def answer(reply, failure):
            if not answered[0]:
                answered[0] = True
                done(reply, failure)

        if timeout < float("inf"):
            self.call_later(timeout, lambda: answer(None, Failure(Kind.TIMEOUT)))
        state = server.at(self.time)
        kinds = {
            "gone": Kind.GONE,
            "draining": Kind.DRAINING,
            "busy": Kind.OVERLOADED,
            "broken": Kind.BROKEN,
            "refusing": Kind.REFUSED,
        }
        if state in kinds:
            self.call_later(0.001, lambda: answer(None, Failure(kinds[state])))
        elif len(server.waiting) >= server.queue:
            self.call_later(0.001, lambda: answer(None, Failure(Kind.QUEUE_FULL)))
        else:
            server.waiting.append((request, answer))
            self._compute(server)
        return lambda: answered.__setitem__(0, True)

    def _compute(self, server):
        if server.computing or not server.waiting:
            return
        server.computing = True
        batch = [server.waiting.pop(0) for _ in range(min(server.batch, len(server.waiting)))]

        def finish():
            state = server.at(self.time)
            if state == "hung":  # a stopped process goes on where it was
                later = min((time for time in server.state if time > self.time), default=None)
                if later is not None:
                    self.call_later(later - self.time, finish)
                return
            server.computing = False
            for request, answer in batch:
                if state == "gone":
                    answer(None, Failure(Kind.GONE))
                else:
                    server.served.append(self.time)
                    answer(request, None)
            if state == "gone":
                for _, answer in server.waiting:
                    answer(None, Failure(Kind.GONE))
                server.waiting.clear()
            self._compute(server)

        jitter = self._chance.uniform(0.9, 1.1)
        self.call_later(server.seconds * jitter, finish)
