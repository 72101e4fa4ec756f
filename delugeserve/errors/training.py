"""Errors of training runs and of the evaluation."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delugeserve.errors.base import Failure, UsageError


class BusyFolderError(UsageError):
    """Another process is training into a folder.

    Args:
        path: the folder.

    Attributes:
        path: see above.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"Another process is training into {path}.",
            "Wait until it has finished, or choose another --output.",
        )


class ResumeError(UsageError):
    """A run was started with other settings than are given now.

    Args:
        path: the run's folder, or its output.
        changed: the settings that differ, by name: their values then and now; None where a
            setting was not given.

    Attributes:
        path: see above.
        changed: see above.
    """

    def __init__(self, path: Path, changed: Mapping[str, tuple[Any, Any]]) -> None:
        self.path, self.changed = path, dict(changed)
        differences = "; ".join(
            f"{_option(name)} was {_setting(old)}, now {_setting(new)}"
            for name, (old, new) in self.changed.items()
        )
        # What was off or not given is left out, everything else is repeated.
        leave = [_option(name) for name, (old, _) in self.changed.items() if not _is_given(old)]
        use = " ".join(
            _option(name) if old is True else f"{_option(name)} {shlex.quote(_setting(old))}"
            for name, (old, _) in self.changed.items()
            if _is_given(old)
        )
        steps = [f"use {use}"] * bool(use) + [f"leave out {', '.join(leave)}"] * bool(leave)
        remedy = f"{' and '.join(steps)}, or choose another --output."
        super().__init__(f"Cannot resume {path}: {differences}.", remedy[:1].upper() + remedy[1:])


class TrainingError(Failure):
    """Training cannot continue.

    Args:
        problem: one sentence.
        remedy: one sentence; for a run that can go on, it ends with "resume the run.".
        resumable: whether the run's folder holds a run that can go on.

    Attributes:
        resumable: see above.
    """

    def __init__(self, problem: str, remedy: str, *, resumable: bool = False) -> None:
        super().__init__(problem, remedy)
        self.resumable = resumable


class StoppedError(TrainingError):
    """Training was stopped by a signal; exit status 128 plus the signal's number.

    Args:
        problem: one sentence.
        remedy: one sentence.
        number: the signal's number.
        resumable: whether the run's folder holds a run that can go on.

    Attributes:
        number: see above.
    """

    def __init__(
        self, problem: str, remedy: str, *, number: int = signal.SIGTERM, resumable: bool = True
    ) -> None:
        super().__init__(problem, remedy, resumable=resumable)
        self.number = number
        self.exit_code = 128 + number


class EvaluationError(Failure):
    """A classifier's outputs cannot be evaluated."""


def _is_given(value: Any) -> bool:
    return value is not None and value is not False


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _setting(value: Any) -> str:
    if value is None or value is False:
        return "not given"
    if value is True:
        return "given"
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
