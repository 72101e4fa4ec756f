"""Which failed attempts are repeated, and when."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from delugeserve_client.core.failures import ABSENT, BUSY, Failure, Kind
from delugeserve_client.errors import ArgumentError

_WITHOUT_MODEL = 5  # attempts


@dataclass(frozen=True)
class RetryPolicy:
    """How failed attempts are repeated.

    An inference changes nothing on the server, so it may be sent again. It is, where another
    attempt may succeed: the server is gone, draining, full or overloaded, or the connection broke.
    Requests that a server refuses as invalid, or at which its model fails, are not sent again.

    Attributes:
        attempts: how often a request is sent at most while servers are gone or draining; 1 never
            repeats. None tries until the deadline, so that requests outlast a server's restart.
            A server that is full is asked until the deadline in any case, and one that does not
            have the model five times at most.
        initial: upper limit of the pause before the first repetition, in seconds. A pause is drawn
            uniformly between 0 and its limit ("full jitter"), so that clients do not come back
            together.
        multiplier: growth of that limit from one repetition to the next.
        largest: largest limit of a pause, in seconds.
        budget: number of repetitions that the requests of a classifier may make at once. Each
            takes a token from a bucket of this size, and waits for one if the bucket is empty. If
            the request is answered after all, tokens that were taken because servers were gone or
            draining come back.
        refill_per_answer: tokens that come back with each answered request.
        refill_per_second: tokens that come back each second.

    Raises:
        ArgumentError: a number is out of range.
    """

    attempts: int | None = None
    initial: float = 0.1
    multiplier: float = 2.0
    largest: float = 2.0
    budget: float = 100.0
    refill_per_answer: float = 0.2
    refill_per_second: float = 10.0

    def __post_init__(self) -> None:
        attempts = self.attempts is None or self.attempts >= 1
        self._check("attempts", "a whole number from 1 up, or None", attempts)
        self._check("budget", "a number from 0 up", self.budget >= 0)
        for name in ("initial", "multiplier", "largest", "refill_per_answer", "refill_per_second"):
            number = getattr(self, name)
            self._check(name, "a finite number from 0 up", math.isfinite(number) and number >= 0)

    def _check(self, name: str, wanted: str, fits: bool) -> None:
        if not fits:
            value = repr(getattr(self, name))
            raise ArgumentError(
                f"{name} of the retry policy is {value}.",
                f"Use {wanted}.",
                argument=name,
                value=value,
            )

    def allows(self, failure: Failure, attempts: int) -> bool:
        """Return whether a request may be sent again, apart from its deadline.

        Args:
            failure: why the last attempt failed.
            attempts: number of attempts so far.
        """
        if self.attempts == 1:
            return False
        most = _WITHOUT_MODEL if failure.kind is Kind.MISSING else math.inf
        if self.attempts is not None:
            most = min(most, self.attempts)
        return failure.kind in BUSY or (failure.kind in ABSENT and attempts < most)

    def pause(self, attempts: int, chance: random.Random) -> float:
        """Return seconds to wait before the next attempt.

        Args:
            attempts: number of attempts so far, at least 1.
            chance: the source of the jitter.
        """
        exponent = min(attempts - 1, 64)  # beyond, the limit is reached, and floats overflow
        return chance.uniform(0, min(self.largest, self.initial * self.multiplier**exponent))


DEFAULT_RETRY = RetryPolicy()


class RetryBudget:
    """A bucket of tokens that bounds how much repetitions add to the load of a server in trouble.

    Args:
        policy: its size, and how it is refilled.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._tokens = policy.budget
        self._at = -math.inf

    def take(self, now: float) -> float:
        """Take a token; return seconds until there is one. It may be infinite.

        The token is taken even if it is not there yet.
        """
        self._add(max(0.0, now - self._at) * self._policy.refill_per_second if self._at > 0 else 0)
        self._at = max(now, self._at)
        self._tokens -= 1
        if self._tokens >= 0:
            return 0.0
        rate = self._policy.refill_per_second
        return -self._tokens / rate if rate > 0 else math.inf

    def give_back(self) -> None:
        """Return a token that was not used."""
        self._add(1)

    def answered(self, tokens: int) -> None:
        """Count an answered request that gives back so many tokens."""
        self._add(self._policy.refill_per_answer + tokens)

    def _add(self, tokens: float) -> None:
        self._tokens = min(self._policy.budget, self._tokens + tokens)
