"""The life of requests: waiting, attempts, repetitions, hedges, deadlines.

The dispatcher decides; a :class:`Reactor` sends and keeps time. There is one for threads, one for
asyncio, and one in the tests that simulates servers and clocks.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from delugeserve_client.core.endpoints import PATIENCE, Endpoint, Endpoints
from delugeserve_client.core.failures import ABSENT, Failure, Kind
from delugeserve_client.core.limits import AdaptiveLimit, FixedLimit
from delugeserve_client.core.observing import Audience, Observer
from delugeserve_client.core.retry import DEFAULT_RETRY, RetryBudget, RetryPolicy

Cancel: TypeAlias = Callable[[], object]
Done: TypeAlias = Callable[[Any, "Failure | None"], None]
"""Receives the reply or the failure of an attempt."""
Ended: TypeAlias = Callable[[Any, "Failure | None", int], None]
"""Receives the reply or the failure, and the number of the endpoint that it is of."""

_TICK = 0.1  # seconds between looks at silent endpoints
_PROBE_SECONDS = 0.4
_READMISSION_SECONDS = 2.0
_POLL = 1.0  # seconds at most between looks for a token of the retry budget

_log = logging.getLogger("delugeserve_client")


class Reactor(Protocol):
    """Sends requests and keeps time. Callbacks may come in any thread."""

    def now(self) -> float:
        """Return the time in seconds, from a clock that never goes back."""

    def send(
        self,
        endpoint: int,
        request: Any,
        timeout: float,
        done: Done,
    ) -> Cancel:
        """Send a request; ``done`` receives the reply or the failure within the timeout.

        Returns:
            A function that cancels the attempt. ``done`` may still be called; it then does nothing.
        """

    def probe(self, endpoint: int, timeout: float, done: Callable[[bool], None]) -> None:
        """Ask a server whether it has the model ready; ``done`` receives the answer."""

    def call_later(self, seconds: float, function: Callable[[], None]) -> Cancel:
        """Call a function after some time; return a function that prevents it."""


@dataclass(frozen=True)
class Settings:
    """How requests are sent.

    Attributes:
        timeout: seconds of a request over all attempts, from the moment it is sent first; infinite
            for no limit.
        retry: how failed attempts are repeated.
        hedge: seconds after which a request without an answer is sent a second time, to another
            server if there is one; the first answer counts. None never does.
        in_flight: number of requests to one server at once; None follows the server.
    """

    timeout: float = 30.0
    retry: RetryPolicy = DEFAULT_RETRY
    hedge: float | None = None
    in_flight: int | None = None


@dataclass(eq=False)
class _Attempt:
    endpoint: Endpoint
    sent: float
    wanted: bool
    cancel: Cancel = lambda: None


@dataclass(eq=False)
class _Call:
    request: Any
    done: Ended
    deadline: float = math.inf  # counts from the first attempt
    attempts: int = 0
    tokens: int = 0  # of the retry budget, to give back when a server is there again
    active: list[_Attempt] = field(default_factory=list)
    tried: set[int] = field(default_factory=set)
    timer: Cancel | None = None
    hedge: Cancel | None = None
    over: bool = False


class Dispatcher:
    """Sends requests to servers.

    Args:
        reactor: what sends.
        endpoints: number of servers.
        settings: how requests are sent.
        lock: held during every decision; a reentrant lock where callbacks come in other threads.
        chance: the source of jitter.
        observers: are told what happens.
    """

    def __init__(
        self,
        reactor: Reactor,
        endpoints: int,
        settings: Settings,
        lock: contextlib.AbstractContextManager[Any] | None = None,
        chance: random.Random | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._reactor, self._settings = reactor, settings
        self._lock = contextlib.nullcontext() if lock is None else lock
        self._chance = random.Random() if chance is None else chance
        self._tell = Audience(observers).tell
        self._budget = RetryBudget(settings.retry)
        fixed, timeout = settings.in_flight, settings.timeout
        self.endpoints = Endpoints(
            endpoints, lambda: AdaptiveLimit(timeout) if fixed is None else FixedLimit(fixed)
        )
        self._waiting: deque[_Call] = deque()
        self._calls: set[_Call] = set()
        self._ticking: Cancel | None = None
        self._closed = False

    @property
    def room(self) -> int:
        """How many requests are worth handing in at once: those in flight, and a few to follow."""
        return 2 * self.endpoints.limit + 2

    def submit(self, request: Any, done: Ended) -> Cancel:
        """Send a request as soon as a server has room for it.

        Args:
            request: what the reactor sends.
            done: receives the outcome, exactly once.

        Returns:
            A function that cancels the request: ``done`` is not called any more.
        """
        call = _Call(request, done)
        self._tell("submitted", request)
        with self._lock:
            if self._closed:
                self._tell("finished", request, Failure(Kind.CLOSED))
                done(None, Failure(Kind.CLOSED), 0)
                return lambda: None
            self._calls.add(call)
            self._waiting.append(call)
            self._pump()
        return lambda: self._cancel(call)

    def _cancel(self, call: _Call) -> None:
        with self._lock:
            if call.over:
                return
            self._end(call)
            self._tell("finished", call.request, Failure(Kind.CLOSED, "It was cancelled."))
            self._pump()

    def close(self) -> None:
        """End all requests with a failure of the kind ``CLOSED``, and take no more."""
        with self._lock:
            self._closed = True
            if self._ticking is not None:
                self._ticking()
            for call in list(self._calls):
                self._finish(call, None, Failure(Kind.CLOSED), 0)

    def _pump(self) -> None:
        while self._waiting:
            if self._waiting[0].over:
                self._waiting.popleft()
                continue
            endpoint = self.endpoints.choose()
            if endpoint is None:
                return
            call = self._waiting.popleft()
            call.deadline = self._reactor.now() + self._settings.timeout
            self._attempt(call, endpoint)

    def _attempt(self, call: _Call, endpoint: Endpoint) -> None:
        now, settings = self._reactor.now(), self._settings
        wanted = bool(self._waiting) or endpoint.in_flight + 1 >= endpoint.limit.value
        attempt = _Attempt(endpoint, now, wanted)
        call.attempts += 1
        call.active.append(attempt)
        call.tried.add(endpoint.number)
        self.endpoints.sent(endpoint, now)
        if settings.hedge is not None and call.attempts == 1:
            call.hedge = self._reactor.call_later(settings.hedge, lambda: self._hedge(call))
        if self.endpoints.several and self._ticking is None:
            self._ticking = self._reactor.call_later(_TICK, self._tick)
        self._tell("attempt", call.request, endpoint.number, call.attempts)

        def done(reply: Any, failure: Failure | None) -> None:
            with self._lock:
                self._answered(call, attempt, reply, failure)

        attempt.cancel = self._reactor.send(
            endpoint.number, call.request, call.deadline - now, done
        )

    def _answered(
        self, call: _Call, attempt: _Attempt, reply: Any, failure: Failure | None
    ) -> None:
        if attempt not in call.active:  # it was given up
            return
        call.active.remove(attempt)
        now, endpoint = self._reactor.now(), attempt.endpoint
        if failure is None:
            self.endpoints.answered(
                endpoint, now - attempt.sent, now, wanted=attempt.wanted or bool(self._waiting)
            )
            self._budget.answered(call.tokens)
            self._finish(call, reply, None, endpoint.number)
        else:
            self._tell("failed", call.request, endpoint.number, failure)
            if self.endpoints.failed(endpoint, failure, now):
                self._ejected(endpoint, failure.kind)
            if not call.active:  # otherwise its hedge may still answer
                self._retry(call, failure, endpoint)
        self._pump()

    def _retry(self, call: _Call, failure: Failure, endpoint: Endpoint) -> None:
        """Send a request again, now or later, or give it up."""
        retry, now = self._settings.retry, self._reactor.now()
        if not retry.allows(failure, call.attempts) or self._closed:
            self._finish(call, None, failure, endpoint.number)
            return
        if failure.kind in ABSENT and self._is_fresh(call):
            if now < call.deadline:  # another server costs the one in trouble nothing
                self._resend(call)
            else:
                self._finish(call, None, failure, endpoint.number)
            return
        pause = max(retry.pause(call.attempts, self._chance), failure.retry_after)
        _log.debug("%s: %s; trying again in %.2f s", failure.kind.value, failure.message, pause)
        self._resend_later(call, failure, endpoint, pause)

    def _resend_later(
        self, call: _Call, failure: Failure, endpoint: Endpoint, pause: float
    ) -> None:
        """Send a request again after a pause, or give it up if there is no time for that."""
        if self._reactor.now() + pause >= call.deadline or not math.isfinite(pause):
            self._finish(call, None, failure, endpoint.number)
            return

        def resend() -> None:
            with self._lock:
                call.timer = None
                if call.over:
                    return
                wait = self._budget.take(self._reactor.now())
                if wait > 0:  # others wait as well, and answers may bring tokens sooner
                    self._budget.give_back()
                    wait += self._chance.uniform(0, _POLL)
                    self._resend_later(call, failure, endpoint, wait)
                else:
                    call.tokens += failure.kind in ABSENT
                    self._resend(call)

        call.timer = self._reactor.call_later(pause, resend)

    def _is_fresh(self, call: _Call) -> bool:
        """Return whether there is a server that a request was not sent to."""
        return any(one.healthy and one.number not in call.tried for one in self.endpoints.all)

    def _resend(self, call: _Call) -> None:
        endpoint = self.endpoints.choose(beyond=True, avoid=call.tried)
        assert endpoint is not None
        self._attempt(call, endpoint)

    def _hedge(self, call: _Call) -> None:
        with self._lock:
            call.hedge = None
            if call.over or len(call.active) != 1 or self._reactor.now() >= call.deadline:
                return
            if self._budget.take(self._reactor.now()) > 0:
                self._budget.give_back()
                return
            endpoint = self.endpoints.choose(avoid=call.tried)
            if endpoint is None:
                self._budget.give_back()
                return
            self._attempt(call, endpoint)

    def _tick(self) -> None:
        """Ask silent servers whether they are alive."""
        with self._lock:
            self._ticking = None
            if self._closed or not (self._calls or self.endpoints.owing):
                return
            for endpoint in self.endpoints.silent(self._reactor.now()):
                self._probe(endpoint)
            self._ticking = self._reactor.call_later(_TICK, self._tick)

    def _probe(self, endpoint: Endpoint) -> None:
        endpoint.probing = True

        def done(alive: bool) -> None:
            with self._lock:
                endpoint.probing = False
                now = self._reactor.now()
                if alive or endpoint.owing is None or now - endpoint.owing < PATIENCE:
                    self.endpoints.heard(endpoint, now)
                elif endpoint.healthy and self.endpoints.another(endpoint.number):
                    self.endpoints.eject(endpoint, now)
                    self._ejected(endpoint, Kind.GONE)
                    self._fail_over(endpoint)

        self._reactor.probe(endpoint.number, _PROBE_SECONDS, done)

    def _fail_over(self, endpoint: Endpoint) -> None:
        """Send to other servers what a server has not answered."""
        failure = Failure(Kind.GONE, "The server does not answer.")
        for call in list(self._calls):
            for attempt in [one for one in call.active if one.endpoint is endpoint]:
                call.active.remove(attempt)
                self.endpoints.abandoned(endpoint)
                attempt.cancel()
                self._tell("failed", call.request, endpoint.number, failure)
                if not call.active:
                    self._retry(call, failure, endpoint)
        self._pump()

    def _ejected(self, endpoint: Endpoint, kind: Kind) -> None:
        assert endpoint.ejected_until is not None
        seconds = endpoint.ejected_until - self._reactor.now()
        self._tell("ejected", endpoint.number, kind, seconds)
        self._reactor.call_later(seconds, lambda: self._try_again(endpoint))

    def _try_again(self, endpoint: Endpoint) -> None:
        with self._lock:
            if self._closed or endpoint.healthy or endpoint.probing:
                return
            endpoint.probing = True

        def done(alive: bool) -> None:
            with self._lock:
                endpoint.probing = False
                now = self._reactor.now()
                if self._closed:
                    return
                if alive:
                    self.endpoints.readmit(endpoint, now)
                    self._tell("readmitted", endpoint.number)
                    self._pump()
                else:
                    self.endpoints.eject(endpoint, now)
                    self._ejected(endpoint, Kind.GONE)

        self._reactor.probe(endpoint.number, _READMISSION_SECONDS, done)

    def _finish(self, call: _Call, reply: Any, failure: Failure | None, endpoint: int) -> None:
        if not call.over:
            self._end(call)
            self._tell("finished", call.request, failure)
            call.done(reply, failure, endpoint)

    def _end(self, call: _Call) -> None:
        """Stop everything that happens for a request."""
        call.over = True
        self._calls.discard(call)
        for timer in (call.timer, call.hedge):
            if timer is not None:
                timer()
        active, call.active = call.active, []
        for attempt in active:
            self.endpoints.abandoned(attempt.endpoint)
            attempt.cancel()
