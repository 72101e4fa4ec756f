"""Faults of servers, each of them reproduced, and what this package does about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """Something a server does wrong.

    Attributes:
        subject: when.
        effect: what happens.
        handled: what the command line and the client do about it.
        advice: what is left to the user to do; None if nothing is.
        versions: servers that were seen to have it, such as ``2.51``.
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
        "'serve' listens on this machine alone unless told otherwise, and then warns",
        "Where other machines can reach the server, say --no-http.",
    ),
    Fault(
        "dead model",
        "when a model's process dies, the server still calls itself ready",
        "'serve' watches the processes, and ends with an error if one dies",
    ),
    Fault(
        "idle HTTP",
        "at SIGTERM the server waits 30 s for open connections, and exits 1",
        "'serve' ends it once no request is in flight, and exits 0",
    ),
    Fault(
        "while stopping",
        "requests are told that their model is unknown",
        "'serve' stops after its clients have been answered; the client says which model and where",
    ),
    Fault(
        "after a crash",
        "shared memory stays behind",
        "'serve' has a guardian that removes it, and the next 'serve' what a killed guardian left",
    ),
)


def known_faults(version: str) -> list[Fault]:
    """The faults that a server of this version was seen to have."""
    minor = ".".join(version.split(".")[:2])
    return [fault for fault in FAULTS if minor in fault.versions]
