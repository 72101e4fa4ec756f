"""The error of a fleet that gave up, with the remedy of what made it do so."""

from __future__ import annotations

from collections.abc import Sequence

from delugeserve.errors import DelugeServeError, ServerError

#: How many errors of its parts a fleet remembers: those of a crash loop, and some.
KEPT_ERRORS = 16


def explain_fault(
    fault: str, errors: Sequence[DelugeServeError], log_tail: str
) -> DelugeServeError:
    """Return why a fleet gave up.

    Args:
        fault: the reason, which is or has in it the problem of one of its parts.
        errors: those of its parts, the newest last.
        log_tail: the last log lines of the part that failed last.
    """
    for error in reversed(errors):
        if error.problem == fault:
            return error
        if error.problem in fault:
            return ServerError(
                fault,
                error.remedy,
                log_tail=getattr(error, "log_tail", "") or log_tail,
                reasons=getattr(error, "reasons", {}),
            )
    return ServerError(
        fault,
        "Start it again with --log FILE, and look there for what happened before.",
        log_tail=log_tail,
    )
