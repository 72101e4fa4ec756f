"""Known faults of Triton servers, each of them reproduced, and how this package handles them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A known fault of a server.

    Attributes:
        subject: what it concerns.
        text: what happens, and what 'serve' does about it.
        versions: servers it was seen in, such as ``2.51``.
    """

    subject: str
    text: str
    versions: Sequence[str] = ("2.51",)


FAULTS = (
    Fault("malformed HTTP", "can crash the server; if other machines reach it, use --no-http"),
    Fault("crashed model", "is still reported as ready; 'serve' notices it and stops"),
    Fault("idle HTTP", "connections delay shutdown by 30 s; 'serve' does not wait for them"),
    Fault("shutdown", "new requests get 'unknown model'; 'serve' answers the running ones first"),
    Fault("crashed server", "leaves shared memory behind; 'serve' frees it"),
)


def known_faults(version: str) -> list[Fault]:
    """Return the faults seen in a version of the server, such as ``2.51.0``."""
    minor = ".".join(version.split(".")[:2])
    return [fault for fault in FAULTS if minor in fault.versions]
