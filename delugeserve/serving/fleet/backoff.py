"""How long the supervisor waits before it tries again, and when it calls failures a crash loop."""

from __future__ import annotations

import dataclasses
from collections import Counter

from delugeserve.serving.fleet.states import Backoff, Fleet, Loss

_GOLDEN = 0.6180339887498949  # its multiples, modulo 1, are spread evenly


def count(fleet: Fleet, key: str, reason: str, now: float, *, attempt: bool) -> Fleet:
    """Count a loss, and return the fleet with the time of the next attempt.

    Args:
        fleet: the fleet.
        key: id of the release, or name of the part.
        reason: why it was lost.
        now: in seconds.
        attempt: it failed soon after its start. The first such loss, and any other, is made good at
            once.
    """
    rules = fleet.rules
    if not attempt:
        return _put(fleet, Backoff(key, 0, now))
    streak = fleet.backoff(key).streak + 1
    delay = 0.0
    if streak > 1:
        delay = min(rules.longest_delay, rules.first_delay * 2.0 ** min(streak - 2, 30))
        # Between half of it and all of it, so that several fleets do not retry in step.
        delay *= 0.5 + 0.5 * ((fleet.seed + streak * _GOLDEN) % 1.0)
    fleet = dataclasses.replace(fleet, losses=(*fleet.losses, Loss(now, key, reason)))
    return _put(prune(fleet, now), Backoff(key, streak, now + delay))


def prune(fleet: Fleet, now: float) -> Fleet:
    """Return the fleet without losses that are too old to count."""
    rules = fleet.rules
    recent = tuple(one for one in fleet.losses if now - one.at <= rules.loop_seconds)
    counts = Counter(one.key for one in recent)
    looping = frozenset(key for key, number in counts.items() if number >= rules.loop_losses)
    return dataclasses.replace(fleet, losses=recent, looping=looping)


def forget(fleet: Fleet, key: str) -> Fleet:
    """Return the fleet without the failures of a release."""
    return dataclasses.replace(
        fleet,
        losses=tuple(one for one in fleet.losses if one.key != key),
        backoffs=tuple(one for one in fleet.backoffs if one.key != key),
        looping=fleet.looping - {key},
    )


def describe_loop(fleet: Fleet, what: str, reason: str) -> str:
    """Return a sentence about a crash loop, with its cause.

    Args:
        fleet: the fleet.
        what: what ends again and again, with a capital letter, in the plural or the singular.
        reason: the cause of the last failure, a sentence.
    """
    rules = fleet.rules
    return (
        f"{what} failed {rules.loop_losses} times within {rules.loop_seconds:.0f} seconds: {reason}"
    )


def _put(fleet: Fleet, new: Backoff) -> Fleet:
    others = tuple(one for one in fleet.backoffs if one.key != new.key)
    return dataclasses.replace(fleet, backoffs=(*others, new))
