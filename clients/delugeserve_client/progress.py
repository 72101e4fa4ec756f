"""How long work reports its progress."""

from __future__ import annotations

import typing


class Progress(typing.Protocol):
    """Receives the progress of one piece of work, stage by stage."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage, which ends the one before.

        Args:
            name: what is being done.
            total: how many steps it has; None if that is not known.
        """

    def advance(self, steps: int = 1) -> None:
        """Count steps of the current stage as done."""


class NoProgress:
    """Discards all progress."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Do nothing."""

    def advance(self, steps: int = 1) -> None:
        """Do nothing."""


NO_PROGRESS: Progress = NoProgress()
