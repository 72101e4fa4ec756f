"""The result of a check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "problem", "absent"]


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        section: ``machine``, ``extras``, ``backends``, ``server``, ``known faults of this server``
            or ``repository``.
        subject: what was checked.
        status: ``ok``; ``warning``: it works, but not as well as it could, or not always;
            ``problem``: it does not work; ``absent``: it is not installed or not there, and is
            needed only for some commands.
        text: what was found.
        remedy: one sentence or command that ends the trouble; every problem has one.
    """

    section: str
    subject: str
    status: Status
    text: str
    remedy: str | None = None
