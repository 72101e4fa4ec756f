"""Known faults of Triton servers, each of them reproduced, and how this package handles them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A known fault of a server.

    Attributes:
        subject: when it occurs.
        effect: what happens.
        handled: what the command line and the client do about it.
        advice: what the user should do; None if nothing is left to do.
        versions: servers it was seen in, such as ``2.51``.
    """

    subject: str
    effect: str
    handled: str
    advice: str | None = None
    versions: Sequence[str] = ("2.51",)


FAULTS = (
    Fault(
        "malformed HTTP",
        "deeply nested JSON, or very many tiny chunks, crash the server",
        "'serve' listens on this machine only by default, and warns when it listens elsewhere",
        "If other machines can reach the server, turn HTTP off: delugeserve serve --no-http",
    ),
    Fault(
        "dead model",
        "if the process of a model dies, the server still reports itself as ready",
        "'serve' watches the processes, and ends with an error if one dies",
    ),
    Fault(
        "idle HTTP",
        "after SIGTERM the server waits 30 s for idle connections, and exits with status 1",
        "'serve' ends it as soon as no request is in flight, and exits with status 0",
    ),
    Fault(
        "while stopping",
        "new requests get the error that their model is unknown",
        "'serve' answers the requests in flight first; the client names the model and the server",
    ),
    Fault(
        "after a crash",
        "shared memory is not freed",
        "'serve' frees it, or the next 'serve' does if it was killed",
    ),
)


def known_faults(version: str) -> list[Fault]:
    """Return the faults seen in a version of the server, such as ``2.51.0``."""
    minor = ".".join(version.split(".")[:2])
    return [fault for fault in FAULTS if minor in fault.versions]
