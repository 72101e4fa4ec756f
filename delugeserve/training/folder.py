"""A run's folder: locked, checked, started and finished; ``records.py`` reads it back."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from delugeserve.artifacts.checkpoints import read_header
from delugeserve.errors import BusyFolderError, TrainingError, UsageError
from delugeserve.plotting import save_figure
from delugeserve.system.locks import try_lock
from delugeserve.training.config import RunConfig
from delugeserve.training.curves import draw_curves
from delugeserve.training.initial import InitialCheckpoint, write_record
from delugeserve.training.records import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    METRICS_FILE,
    as_recorded,
    check_settings,
    read_config,
    read_run,
)
from delugeserve.training.saving import BEST_FILE, STATE_FILE, write_json

CURVES_FILE = "curves.png"
_THEN = ", then "

LOCK_FILE = ".lock"
"""Locked while a run is in progress. The file's existence alone means nothing."""


@contextmanager
def run_lock(output: Path) -> Iterator[None]:
    """Lock a folder against other processes that would train into it.

    The folder is created, and removed again if it stays empty. The operating system releases the
    lock when this process ends, however it ends.

    Raises:
        BusyFolderError: another process is training into it.
        UsageError: it cannot be written.
    """
    made = [folder for folder in (output, *output.parents) if not folder.exists()]
    lock = output / LOCK_FILE
    try:
        output.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    except OSError as error:
        raise _unwritable(output, error) from error
    with file:
        if not try_lock(file, lock):
            raise BusyFolderError(output)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            for folder in made:
                with suppress(OSError):  # it is not empty
                    folder.rmdir()


def check_folder(output: Path, config: RunConfig, *, resume: bool) -> None:
    """Check that a run can be started, or resumed, in a folder.

    Raises:
        UsageError: it holds a run already, or none to resume, or a checkpoint of unknown origin.
        ResumeError: the run was started with other settings.
    """
    exists = (output / CONFIG_FILE).exists()
    if exists and not resume:
        raise UsageError(
            f"{output} already holds a run.",
            f"Continue it with --resume {shlex.quote(str(output))}, or choose another --output.",
        )
    if not exists and resume:
        raise UsageError(f"{output} holds no run to resume.", "Start one there with --output.")
    if resume:
        _check_settings(output, config)
        return
    checkpoint = output / f"{config.network_name}.safetensors"
    if checkpoint.exists():
        raise UsageError(
            f"{checkpoint} exists, but {output} has no {CONFIG_FILE} that says where it is from.",
            "Move the file elsewhere, or choose another --output.",
        )


def start_folder(
    output: Path,
    config: RunConfig,
    environment: Mapping[str, str],
    initial: InitialCheckpoint | None,
    *,
    resume: bool,
) -> dict[str, str]:
    """Write the settings, the environment and the record of the initial checkpoint.

    The errors of a run that ended, and goes on with more epochs, are removed. If its checkpoint is
    of the epoch with the lowest validation error, that one is the best so far.

    Returns:
        The environment; for a resumed run, the one of all its parts.

    Raises:
        UsageError: the folder cannot be written.
    """
    whole = dict(environment)
    if resume:
        whole = _continued(read_run(output).environment, environment)
    try:
        if initial is not None:
            write_record(output, initial)
        write_json(output / ENVIRONMENT_FILE, whole)
        if resume and read_config(read_run(output)).recipe.epochs < config.recipe.epochs:
            _reopen(output, config.network_name)
        write_json(output / CONFIG_FILE, as_recorded(config))
    except OSError as error:
        raise _unwritable(output, error) from error
    return whole


def _reopen(output: Path, network: str) -> None:
    (output / METRICS_FILE).unlink(missing_ok=True)
    checkpoint = output / f"{network}.safetensors"
    if checkpoint.is_file() and "epoch" in read_header(checkpoint).recipe:
        checkpoint.replace(output / BEST_FILE)


def _continued(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Append what changed since the run was started, such as ``old, then new``."""
    whole = {**now, **before}
    for name in before.keys() & now.keys() - {"command"}:
        if before[name].rpartition(_THEN)[2] != now[name]:
            whole[name] = f"{before[name]}{_THEN}{now[name]}"
    return whole


@contextmanager
def finishing(output: Path) -> Iterator[None]:
    """Turn a failed write of a run's last files into an error that says what is saved.

    Raises:
        TrainingError: a file could not be written in the body.
    """
    try:
        yield
    except UsageError as error:
        raise TrainingError(
            f"{error.problem} All epochs are saved in {output / STATE_FILE}.",
            "Free some space or make the folder writable, then resume the run.",
            resumable=True,
        ) from error


def finish_folder(output: Path, metrics: Mapping[str, Any]) -> None:
    """Write the final errors, and draw the learning curves.

    Args:
        output: the run's folder.
        metrics: the errors.

    Raises:
        UsageError: the folder cannot be written.
    """
    try:
        write_json(output / METRICS_FILE, metrics)
    except OSError as error:
        raise _unwritable(output, error) from error
    save_figure(draw_curves([read_run(output)]), output / CURVES_FILE)


def _unwritable(output: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{output} cannot be written: {error.strerror or error}.",
        "Free some space or make it writable, or choose another --output.",
    )


def _check_settings(output: Path, config: RunConfig) -> None:
    found = read_run(output)
    read_config(found)
    check_settings(found, config, more_epochs=True)
