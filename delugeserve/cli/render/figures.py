"""Figures as text."""

from __future__ import annotations


def percent(value: object) -> str:
    """Return an error in percent as text; empty for None."""
    if value is None:
        return ""
    return f"{value:.2f} %" if isinstance(value, (int, float)) else f"{value} %"
