"""Why an attempt failed, and whether another one may succeed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """Why an attempt failed."""

    GONE = "gone"
    """No connection, or it broke, or the server hangs."""
    DRAINING = "draining"
    """The server is starting or stopping and takes no requests."""
    QUEUE_FULL = "queue full"
    """The model's queue has no room."""
    OVERLOADED = "overloaded"
    """The server, or what is in front of it, refuses requests for now."""
    EXPIRED = "expired"
    """The request waited too long in the server's queue."""
    TIMEOUT = "timeout"
    """No answer within the time that the attempt had."""
    MISSING = "missing"
    """The server does not have the model ready."""
    BROKEN = "broken"
    """The model or the server failed at the request."""
    REFUSED = "refused"
    """The request is not valid; no server would take it."""
    DENIED = "denied"
    """The credentials are not accepted, or the server is not trusted."""
    CLOSED = "closed"
    """The client was closed, or the request cancelled."""


ABSENT = frozenset({Kind.GONE, Kind.DRAINING, Kind.MISSING})
"""The server did not take the request; another one, or the same one later, may."""

BUSY = frozenset({Kind.QUEUE_FULL, Kind.OVERLOADED, Kind.EXPIRED})
"""The server has more requests than it can answer."""

EJECT_AFTER = {Kind.GONE: 1, Kind.DRAINING: 1, Kind.MISSING: 1, Kind.TIMEOUT: 3, Kind.BROKEN: 5}
"""After how many failures of a kind in a row an endpoint gets no requests for a while."""


@dataclass(frozen=True)
class Failure:
    """A failed attempt.

    Attributes:
        kind: why it failed.
        message: the server's or the network's own words.
        status: gRPC's name of the status, or HTTP's number; empty if there is none.
        retry_after: seconds that the server asks to wait; 0 if it does not say.
        cause: the exception behind it, or None.
    """

    kind: Kind
    message: str = ""
    status: str = ""
    retry_after: float = 0.0
    cause: BaseException | None = None
