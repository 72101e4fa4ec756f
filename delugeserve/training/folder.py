"""A run's folder, as a run begins, goes on and ends; ``records.py`` reads it back."""

from __future__ import annotations

import dataclasses
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from delugeserve.errors import TrainingError, UsageError
from delugeserve.evaluation.evaluate import Evaluation
from delugeserve.plotting import save_figure
from delugeserve.training.config import RunConfig
from delugeserve.training.curves import draw_curves
from delugeserve.training.records import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    METRICS_FILE,
    as_recorded,
    check_same,
    read_run,
)
from delugeserve.training.saving import STATE_FILE, write_json

CURVES_FILE = "curves.png"
_THEN = ", then "

LOCK_FILE = ".lock"
"""Locked for as long as a run goes on; that it exists means nothing."""


@contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Keep other processes from training into a folder.

    The folder is made, and taken away again if nothing comes to lie in it. The lock is the
    operating system's, and ends with this process, however that ends.

    Raises:
        UsageError: another process trains into it, or it cannot be written.
    """
    made = [folder for folder in (output, *output.parents) if not folder.exists()]
    lock = output / LOCK_FILE
    try:
        output.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    except OSError as error:
        raise _unwritable(output, error) from error
    with file:
        if not _is_locked(file, lock):
            raise UsageError(
                f"{output} is being trained into by another process.",
                "Wait for its end, or choose another --output.",
            )
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            for folder in made:
                with suppress(OSError):  # it is not empty
                    folder.rmdir()


def _is_locked(file: IO[str], path: Path) -> bool:
    """Lock an open file, unless another process has; whether that was possible."""
    try:
        # Not by flock, whose locks belong to forked processes too: those that decode images
        # outlive a killed run by seconds.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # the file system has no locks
        return True
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:  # removed, since it was opened, by whoever held the lock before
        return False


def check_folder(output: Path, config: RunConfig, *, resume: bool) -> None:
    """Check that a run can be started, or resumed, in a folder.

    Raises:
        UsageError: it holds a run already, or none to resume, or one that was asked otherwise, or
            a checkpoint of unknown origin.
    """
    exists = (output / CONFIG_FILE).exists()
    if exists and not resume:
        raise UsageError(
            f"{output} already holds a run.",
            "Add --resume to go on with it, or choose another --output.",
        )
    if not exists and resume:
        raise UsageError(f"{output} holds no run to resume.", "Leave --resume away to start one.")
    if resume:
        _check_same(output, config)
        return
    checkpoint = output / f"{config.model}.safetensors"
    if checkpoint.exists():
        raise UsageError(
            f"{checkpoint} exists, and no {CONFIG_FILE} beside it says of which run.",
            "Move it away, or choose another --output.",
        )


def start_folder(
    output: Path, config: RunConfig, environment: Mapping[str, str], *, resume: bool
) -> dict[str, str]:
    """Write what is asked, and where.

    Returns:
        The environment; of a run that goes on, that of all its parts.

    Raises:
        UsageError: the folder cannot be written.
    """
    whole = dict(environment)
    if resume:
        whole = _continued(read_run(output).environment, environment)
    try:
        write_json(output / ENVIRONMENT_FILE, whole)
        write_json(output / CONFIG_FILE, as_recorded(config))
    except OSError as error:
        raise _unwritable(output, error) from error
    return whole


def _continued(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """What has changed since a run was begun, behind what it was; but for the command."""
    whole = {**now, **before}
    for name in before.keys() & now.keys() - {"command"}:
        if before[name].rpartition(_THEN)[2] != now[name]:
            whole[name] = f"{before[name]}{_THEN}{now[name]}"
    return whole


@contextmanager
def finishing(output: Path) -> Iterator[None]:
    """Say of a run's last files that no epoch is lost with them.

    Raises:
        TrainingError: one cannot be written.
    """
    try:
        yield
    except UsageError as error:
        raise TrainingError(
            f"{error.problem} All epochs are done, and their state is in {output / STATE_FILE}.",
            "Free some space, then run the same command again, 'train' with --resume.",
        ) from error


def finish_folder(output: Path, evaluation: Evaluation) -> None:
    """Write what the run came to, and draw its learning curves.

    Raises:
        UsageError: the folder cannot be written.
    """
    try:
        write_json(output / METRICS_FILE, dataclasses.asdict(evaluation))
    except OSError as error:
        raise _unwritable(output, error) from error
    save_figure(draw_curves([read_run(output)]), output / CURVES_FILE)


def _unwritable(output: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{output} cannot be written: {error}.",
        "Free some space or make it writable, or choose another --output.",
    )


def _check_same(output: Path, config: RunConfig) -> None:
    found = read_run(output)
    if found.reason is not None:
        raise UsageError(
            f"The run in {output} cannot go on: {found.reason}.", "Choose another --output."
        )
    check_same(found, config)
