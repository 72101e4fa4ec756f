"""Which failed attempts are repeated, and when."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RetryPolicy:
    """How failed attempts are repeated.

    Only attempts that cannot have had an effect, or whose effect does not matter, are repeated. An
    inference changes nothing on the server, so that is every attempt whose failure another attempt
    may not share: the server is gone, draining, full or overloaded, or the connection broke.

    Attributes:
        attempts: how often a request is sent at most while no server answers; 1 never repeats. A
            server that is full or overloaded does answer, and is asked again until the deadline.
        initial: upper limit of the pause before the first repetition, in seconds. A pause is drawn
            uniformly between 0 and its limit ("full jitter"), so that clients do not come back
            together.
        multiplier: how much that limit grows from one repetition to the next.
        largest: largest limit of a pause, in seconds.
        budget: number of repetitions that all requests of a classifier may make at once; each
            takes one token from a bucket of this size.
        refill: tokens that come back with each answered request, and each second.
    """

    attempts: int = 5
    initial: float = 0.1
    multiplier: float = 2.0
    largest: float = 2.0
    budget: float = 20.0
    refill: float = 0.1


DEFAULT_RETRY = RetryPolicy()
NO_RETRY = RetryPolicy(attempts=1)
