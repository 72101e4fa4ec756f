"""Errors of bulk labelling, beside those of the images and of the server."""

from __future__ import annotations

from pathlib import Path

from delugeserve.errors.base import Failure, UsageError


class OutputExistsError(UsageError):
    """An output exists already.

    Args:
        path: the output.
        rows: rows of a run that did not end; None if the output is complete.

    Attributes:
        path, rows: see above.
    """

    def __init__(self, path: Path, rows: int | None) -> None:
        self.path, self.rows = path, rows
        if rows is None:
            super().__init__(
                f"{path} exists.", "Choose another --output, or add --overwrite to replace it."
            )
        else:
            super().__init__(
                f"{path} is not complete: it has {rows:,} rows of a run that did not end.",
                "Add --resume to continue, or --overwrite to start again.",
            )


class BusyOutputError(UsageError):
    """Another process is writing an output.

    Attributes:
        path: the output.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"Another process is writing {path}.",
            "Wait until it has finished, or choose another --output.",
        )


class OtherInputError(UsageError):
    """What an unfinished output was made from has changed: the model, an image or a shard.

    Args:
        path: the output.
        change: what changed, a clause.
        kind: ``model``, ``source``, ``shard``, ``output`` or ``journal``.
        before: what it was.
        now: what it is.

    Attributes:
        path, kind, before, now: see above.
    """

    def __init__(self, path: Path, change: str, *, kind: str, before: str, now: str) -> None:
        self.path, self.kind, self.before, self.now = path, kind, before, now
        super().__init__(
            f"Cannot resume {path}: {change}.",
            "Restore it and resume, or start again with --overwrite or another --output.",
        )


class UnfinishedError(Failure):
    """The work stopped before its end; what was answered is kept.

    Args:
        problem: one sentence.
        remedy: one sentence.
        path: the output.
        rows: rows that are kept.
        exit_code: exit status of the command line.

    Attributes:
        path, rows: see above.
    """

    def __init__(
        self, problem: str, remedy: str, *, path: Path | None, rows: int, exit_code: int = 1
    ) -> None:
        super().__init__(problem, remedy)
        self.path, self.rows, self.exit_code = path, rows, exit_code
