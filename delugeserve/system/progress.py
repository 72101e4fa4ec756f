"""How long work reports its progress: one protocol, for every stage of every command.

A function that may take more than a few seconds takes ``progress: Progress = NO_PROGRESS``. The
command line shows it as a bar on a terminal and as a line every few seconds elsewhere; see
:mod:`delugeserve.cli.render.progress`.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of one piece of work, stage by stage."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage, which ends the one before.

        Args:
            name: what is being done, such as ``"calibrate"``.
            total: how many steps it has; None if that is not known.
        """

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count steps of the current stage as done.

        Args:
            steps: how many more.
            note: shown next to the count, such as ``"loss 1.234"``; replaces the previous note.
        """


class NoProgress:
    """Discards all progress."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Do nothing."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Do nothing."""


NO_PROGRESS: Progress = NoProgress()
