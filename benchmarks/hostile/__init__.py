"""Requests that damage or stall a server that is not careful, with the answers that are right.

:func:`hostile_requests` yields them without end, the same ones for the same seed.
:mod:`hostile.sending` sends them over a socket or a channel.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence

from hostile import classify, triton
from hostile.request import HostileRequest, Target

__all__ = ["HostileRequest", "Target", "hostile_requests"]

_MAKERS = {
    "classify": classify.MAKERS,
    "http": triton.HTTP_MAKERS,
    "grpc": triton.GRPC_MAKERS,
}
_KEYS = ("", "Bearer", "Bearer " + "0" * 64, "Basic YTpi", "Bearer " + "x" * 4000)


def hostile_requests(
    seed: int, target: Target, protocols: Sequence[str] = tuple(_MAKERS)
) -> Iterator[HostileRequest]:
    """Yield requests without end.

    Args:
        seed: the same seed gives the same requests.
        target: the model that they ask.
        protocols: ``classify``, ``http`` (Triton's) and ``grpc``.
    """
    rng = random.Random(seed)
    while True:
        request = rng.choice(_MAKERS[rng.choice(protocols)])(rng, target)
        if target.keys and rng.random() < 0.1:
            request = _with_a_wrong_key(rng, request)
        yield request


def _with_a_wrong_key(rng: random.Random, request: HostileRequest) -> HostileRequest:
    denied = "UNAUTHENTICATED" if request.protocol == "grpc" else 401
    return dataclasses.replace(
        request,
        kind=f"wrong key; {request.kind}",
        headers={**request.headers, "authorization": rng.choice(_KEYS)},
        # What is wrong with the request itself may be found first.
        expected=request.expected - {200, "OK"} | {denied},
    )
