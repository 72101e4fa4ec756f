"""Latency budgets as people write them."""

from __future__ import annotations

import re
from math import isfinite

from delugeserve.errors import UsageError

_UNITS = {"": 1e-3, "us": 1e-6, "ms": 1e-3, "s": 1.0}
_BUDGET = re.compile(r"\s*([0-9.]+(?:e[+-]?\d+)?)\s*(us|ms|s|)\s*", re.IGNORECASE)


def parse_budget(text: str, option: str = "--latency-budget") -> float:
    """Return a budget in seconds.

    Args:
        text: a number with ``us``, ``ms`` or ``s``; without a unit it is milliseconds, as
            perf_analyzer's are.
        option: the option's name, for the error.

    Raises:
        UsageError: it is not of this form, or not above 0.
    """
    match = _BUDGET.fullmatch(text)
    try:
        seconds = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
    except ValueError:
        seconds = 0.0
    if not (isfinite(seconds) and seconds > 0):
        raise UsageError(
            f"{option} '{text}' is not a time above 0.", f"Use a time such as {option} 50ms."
        )
    return seconds
