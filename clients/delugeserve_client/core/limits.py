"""How many requests one server gets at once."""

from __future__ import annotations

import math
from typing import Protocol

_FIRST = 2
_LARGEST = 256
_FEWEST = 4  # answers that a window has at least
# A step up is kept if the rate grows by this part of what the limit grew by.
_GAIN = 0.3
_DOUBLE_UNTIL = 32
_HOLD, _LONGEST_HOLD = 8, 128  # windows before the next try after one that did not help
# Answers may take these parts of a request's time before the limit is no longer raised, or lowered.
_COMFORTABLE, _ALARMING = 0.25, 0.5


class Limit(Protocol):
    """How many requests one server gets at once."""

    value: int

    def answered(self, latency: float, now: float, *, wanted: bool) -> None:
        """Count an answer.

        Args:
            latency: seconds that it took.
            now: the time.
            wanted: whether the limit was reached, so that more requests would have been sent.
        """

    def refused(self, now: float) -> None:
        """Count a request that the server was too busy to take, or did not answer in time."""


class FixedLimit:
    """A limit that the caller chose.

    Args:
        value: the number of requests.
    """

    def __init__(self, value: int) -> None:
        self.value = value

    def answered(self, latency: float, now: float, *, wanted: bool) -> None:
        """Do nothing."""

    def refused(self, now: float) -> None:
        """Do nothing."""


class AdaptiveLimit:
    """A limit that follows the server: additive increase, multiplicative decrease (AIMD).

    A batching server answers more per second the more requests it has, up to a point; its latency
    grows all along, so latency alone does not tell that point. The limit is raised as long as the
    rate of answers follows, first by doubling, and then held, with a try from time to time. It is
    halved when the server refuses requests, and lowered when answers take so long that requests
    would run out of time.

    Args:
        timeout: seconds that a request has.
        first: the limit to start from.
        largest: the largest limit.
    """

    def __init__(self, timeout: float, first: int = _FIRST, largest: int = _LARGEST) -> None:
        self.value = first
        self._timeout, self._largest = timeout, largest
        self._before: tuple[int, float] | None = None  # the limit before a raise, and its rate
        self._hold, self._holding = _HOLD, 0
        self._lowered = -math.inf
        self._latency = 0.0
        self._wanted = True
        self._begin(-math.inf)

    def answered(self, latency: float, now: float, *, wanted: bool) -> None:
        """Count an answer; see :class:`Limit`."""
        if now - latency < self._start:  # sent under the limit before
            return
        self._count += 1
        self._sum += latency
        self._wanted = self._wanted and wanted
        # Slow answers count at once: a window of them would outlast the requests.
        slow = latency * 2 * self.value >= _ALARMING * self._timeout
        if self._count >= max(_FEWEST, self.value) or slow:
            self._latency = self._sum / self._count
            # By Little's law. Counting answers would be misled by those that come in batches.
            rate = self.value / max(self._latency, 1e-9)
            wanted = self._wanted
            self._begin(now)
            self._adapt(rate, now, wanted)

    def refused(self, now: float) -> None:
        """Halve the limit, once for the requests that are in flight together."""
        if now - self._lowered > self._latency:
            self.value = max(1, self.value // 2)
            self._lowered = now
        self._before = None
        self._holding = self._hold
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._start, self._count, self._sum, self._wanted = now, 0, 0.0, True

    def _adapt(self, rate: float, now: float, wanted: bool) -> None:
        if self._latency > _ALARMING * self._timeout:
            self.value = max(1, min(self.value - 1, int(self.value * 0.75)))
            self._lowered, self._before, self._holding = now, None, self._hold
        elif not wanted:
            self._before = None  # rates of different demand do not compare
        elif self._before is not None:
            limit, reached = self._before
            growth = self.value / limit - 1
            if rate < reached * (1 + _GAIN * growth):
                self.value, self._before = limit, None
                self._holding, self._hold = self._hold, min(2 * self._hold, _LONGEST_HOLD)
            else:
                self._hold = _HOLD
                self._raise(rate)
        elif self._holding > 0:
            self._holding -= 1
        else:
            self._raise(rate)

    def _raise(self, rate: float) -> None:
        more = self.value if self.value < _DOUBLE_UNTIL else max(1, self.value // 4)
        target = min(self._largest, self.value + more)
        slow = self._latency * target / self.value > _COMFORTABLE * self._timeout
        if target == self.value or slow:
            self._before = None
            return
        self._before = (self.value, rate)
        self.value = target
