"""Which server gets the next request, and which ones get none for a while."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from delugeserve_client.core.failures import BUSY, EJECT_AFTER, Failure, Kind
from delugeserve_client.core.limits import Limit

FIRST_EJECTION, LONGEST_EJECTION = 0.5, 10.0  # seconds
_FORGIVEN = 30.0  # seconds of health after which an endpoint starts afresh
PATIENCE = 0.3
"""Seconds without any answer from an endpoint that owes some, after which it is asked whether it
is alive."""


@dataclass(eq=False)
class Endpoint:
    """One server.

    Attributes:
        number: its place in the list of servers.
        limit: how many requests it gets at once.
        in_flight: the number that it has.
        ejected_until: when it is tried again; None while it gets requests.
        owing: since when it owes an answer and has sent none; None if it owes none.
        probing: whether it is being asked whether it is alive.
        failures: failures in a row, by kind.
    """

    number: int
    limit: Limit
    in_flight: int = 0
    ejected_until: float | None = None
    owing: float | None = None
    probing: bool = False
    failures: dict[Kind, int] = field(default_factory=dict)
    ejections: int = 0
    readmitted: float = -math.inf

    @property
    def healthy(self) -> bool:
        """Whether it gets requests."""
        return self.ejected_until is None

    @property
    def load(self) -> float:
        """Its load with one more request."""
        return (self.in_flight + 1) / self.limit.value


class Endpoints:
    """All servers of a classifier.

    Args:
        count: their number.
        new_limit: makes the limit of one.
    """

    def __init__(self, count: int, new_limit: Callable[[], Limit]) -> None:
        self._new_limit = new_limit
        self.all = [Endpoint(number, new_limit()) for number in range(count)]
        self._turn = 0

    @property
    def several(self) -> bool:
        """Whether there is more than one."""
        return len(self.all) > 1

    @property
    def limit(self) -> int:
        """How many requests may be in flight to all that get requests."""
        return sum(one.limit.value for one in self.all if one.healthy) or 1

    @property
    def in_flight(self) -> int:
        """How many requests are in flight."""
        return sum(one.in_flight for one in self.all)

    def choose(self, *, beyond: bool = False, avoid: Collection[int] = ()) -> Endpoint | None:
        """Return the endpoint with the least load; None if all that get requests are full.

        If none gets requests, it is the one that is tried again first: a request that fails tells
        more than one that waits.

        Args:
            beyond: go beyond the limits, for a request that is sent again.
            avoid: numbers of endpoints to use only if there are no others.
        """
        if not self.several:
            only = self.all[0]
            return only if beyond or only.in_flight < only.limit.value else None
        healthy = [one for one in self.all if one.healthy]
        if not healthy:
            healthy = [min(self.all, key=lambda one: one.ejected_until or 0.0)]
        wanted = [one for one in healthy if one.number not in avoid] or healthy
        free = [one for one in wanted if beyond or one.in_flight < one.limit.value]
        if not free:
            return None
        self._turn += 1
        count = len(self.all)
        return min(free, key=lambda one: (one.load, (one.number - self._turn) % count))

    def another(self, number: int) -> bool:
        """Return whether an endpoint other than this one gets requests."""
        return any(one.healthy and one.number != number for one in self.all)

    def sent(self, endpoint: Endpoint, now: float) -> None:
        """Count a request sent."""
        if endpoint.owing is None:
            endpoint.owing = now
        endpoint.in_flight += 1

    def heard(self, endpoint: Endpoint, now: float) -> None:
        """Record that an endpoint answered something."""
        endpoint.owing = now if endpoint.in_flight else None

    def answered(self, endpoint: Endpoint, latency: float, now: float, *, wanted: bool) -> None:
        """Count an answer; see :meth:`~delugeserve_client.core.limits.Limit.answered`."""
        endpoint.in_flight -= 1
        self.heard(endpoint, now)
        endpoint.failures.clear()
        if endpoint.ejections and now - endpoint.readmitted > _FORGIVEN:
            endpoint.ejections = 0
        endpoint.limit.answered(latency, now, wanted=wanted)

    def failed(self, endpoint: Endpoint, failure: Failure, now: float) -> bool:
        """Count a failure; return whether the endpoint is ejected for it."""
        endpoint.in_flight -= 1
        kind = failure.kind
        if kind not in (Kind.GONE, Kind.TIMEOUT, Kind.CLOSED):
            self.heard(endpoint, now)
        if kind in BUSY or kind is Kind.TIMEOUT:
            endpoint.limit.refused(now)
        count = endpoint.failures[kind] = endpoint.failures.get(kind, 0) + 1
        if not self.several or not endpoint.healthy or count < EJECT_AFTER.get(kind, math.inf):
            return False
        self.eject(endpoint, now)
        return True

    def abandoned(self, endpoint: Endpoint) -> None:
        """Count a request that was given up. The server still owes an answer, or a sign of life."""
        endpoint.in_flight -= 1

    def eject(self, endpoint: Endpoint, now: float) -> None:
        """Give an endpoint no requests for a while, each time for longer."""
        seconds = min(LONGEST_EJECTION, FIRST_EJECTION * 2 ** min(endpoint.ejections, 16))
        endpoint.ejections += 1
        endpoint.ejected_until = now + seconds
        endpoint.failures.clear()

    def readmit(self, endpoint: Endpoint, now: float) -> None:
        """Give an endpoint requests again, few at first."""
        endpoint.ejected_until = None
        endpoint.readmitted = now
        self.heard(endpoint, now)
        endpoint.limit = self._new_limit()

    def silent(self, now: float) -> list[Endpoint]:
        """Return the endpoints to ask whether they are alive: others could take their requests."""
        return [
            one for one in self.owing if not one.probing and now - (one.owing or now) > PATIENCE
        ]

    @property
    def owing(self) -> list[Endpoint]:
        """The endpoints that owe answers which others could give."""
        healthy = [one for one in self.all if one.healthy]
        return [one for one in healthy if one.owing is not None and len(healthy) > 1]
