"""A request that is not as it should be, and the model that it asks."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Target:
    """The model that is asked.

    Attributes:
        model: its name.
        shape: height, width and channels of its input.
        largest: bytes above which a body is refused.
        keys: whether clients need a key; then wrong keys are tried.
        slow_seconds: for how long a slow client sends; 0 leaves slow clients out.
        large: whether bodies above ``largest`` are sent or announced. Envoy waits for what is
            announced, for 30 s by default.
    """

    model: str
    shape: tuple[int, int, int] = (32, 32, 3)
    largest: int = 64 * 2**20
    keys: bool = False
    slow_seconds: float = 0.0
    large: bool = True


@dataclass(frozen=True)
class HostileRequest:
    """A request, and what a careful server answers.

    Attributes:
        kind: what is wrong with it.
        protocol: ``classify`` and ``http`` are HTTP requests, ``grpc`` a unary call.
        path: path and query, or the gRPC method.
        expected: HTTP statuses, or names of gRPC statuses. 0 is a connection that the server closes
            without an answer.
        method: HTTP method.
        headers: HTTP headers, or gRPC metadata.
        body: parts of the body; gRPC sends them as one message.
        chunked: send the parts as HTTP chunks, without a length.
        pause: seconds before each part.
    """

    kind: str
    protocol: str
    path: str
    expected: frozenset[Any]
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Sequence[bytes] = ()
    chunked: bool = False
    pause: float = 0.0


Maker = Callable[[random.Random, Target], HostileRequest]
