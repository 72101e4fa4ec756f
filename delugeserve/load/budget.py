"""Times as people write them: latency budgets, and how long a test lasts."""

from __future__ import annotations

import re
from math import isfinite

from delugeserve.errors import UsageError

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_TIME = re.compile(r"\s*([0-9.]+(?:e[+-]?\d+)?)\s*(us|ms|s|)\s*", re.IGNORECASE)


def larger_budget(latency_ms: float) -> str:
    """Return the remedy where the least latency that was measured is above the budget."""
    wanted = float(f"{latency_ms * 1.25:.2g}")
    return f"Use --latency-budget {wanted:g}ms or more, or a smaller or faster model."


def parse_budget(text: str, option: str = "--latency-budget") -> float:
    """Return a budget in seconds.

    Args:
        text: a number with ``us``, ``ms`` or ``s``; without a unit it is milliseconds, as
            perf_analyzer's are.
        option: the option's name, for the error.

    Raises:
        UsageError: it is not of this form, or not above 0.
    """
    return _parse(text, option, "ms", "50ms")


def parse_duration(text: str, option: str = "--duration") -> float:
    """Return how long a test lasts, in seconds, which is also the unit of a bare number.

    Args:
        text: a number, or one with ``us``, ``ms`` or ``s``.
        option: the option's name, for the error.

    Raises:
        UsageError: it is not of this form, or not above 0.
    """
    return _parse(text, option, "s", "10s")


def _parse(text: str, option: str, bare: str, example: str) -> float:
    match = _TIME.fullmatch(text)
    try:
        seconds = float(match[1]) * _UNITS[match[2].lower() or bare] if match else 0.0
    except ValueError:
        seconds = 0.0
    if not (isfinite(seconds) and seconds > 0):
        raise UsageError(
            f"{option} '{text}' is not a time above 0.", f"Use a time such as {option} {example}."
        )
    return seconds
