"""What an examination finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "problem", "absent"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        section: what it belongs to: ``machine``, ``extras``, ``backends``, ``server``, ``known
            faults of this server`` or ``repository``.
        subject: what was looked at.
        status: ``ok``; ``warning``: it works, and could surprise; ``problem``: it does not work;
            ``absent``: it is not here, and need not be.
        text: what was found.
        remedy: what to do about it, one sentence or command; every problem has one.
    """

    section: str
    subject: str
    status: Status
    text: str
    remedy: str | None = None
