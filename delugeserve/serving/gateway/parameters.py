"""The query parameters of ``/classify``."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass

from starlette.datastructures import QueryParams

from delugeserve.serving.gateway.errors import RequestError

TOP_K, MOST = 5, 1000
_NAMES = ("model", "timeout", "top_k")


@dataclass(frozen=True)
class Parameters:
    """What a client asks for.

    Attributes:
        model: the model's name; None for the server's only one.
        top_k: number of classes for each image.
        seconds: time that the server has for an answer.
    """

    model: str | None
    top_k: int
    seconds: float


def read_parameters(query: QueryParams, most_seconds: float) -> Parameters:
    """Read the query parameters.

    Args:
        query: the request's.
        most_seconds: the longest time that a client may give the server, and the default.

    Raises:
        RequestError: a parameter is unknown, is given twice, or has an invalid value.
    """
    names = [name for name, _ in query.multi_items()]
    for name in names:
        if name not in _NAMES:
            near = difflib.get_close_matches(name, _NAMES, n=1)
            raise _invalid(
                f"There is no parameter '{name[:80]}'.",
                f"Did you mean '{near[0]}'?" if near else f"Use one of: {', '.join(_NAMES)}.",
            )
        if names.count(name) > 1:
            raise _invalid(f"The parameter '{name}' is given twice.", "Give it once.")
    return Parameters(
        query.get("model"),
        _read_top_k(query.get("top_k", str(TOP_K))),
        _read_seconds(query.get("timeout", str(most_seconds)), most_seconds),
    )


def _read_top_k(text: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= MOST:
        return int(text)
    raise _invalid(
        f"The parameter 'top_k' is '{text[:80]}'.", f"Use a whole number from 1 to {MOST}."
    )


def _read_seconds(text: str, most: float) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if 0 < seconds <= most:
        return seconds
    raise _invalid(
        f"The parameter 'timeout' is '{text[:80]}'.",
        f"Use a number of seconds above 0 and up to {most:g}.",
    )


def _invalid(problem: str, remedy: str) -> RequestError:
    return RequestError(422, problem, remedy)
