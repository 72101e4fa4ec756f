"""A run's folder, as a run begins, goes on and ends; ``records.py`` reads it back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from delugeserve.errors import UsageError
from delugeserve.evaluation import Evaluation
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
from delugeserve.training.saving import write_json

CURVES_FILE = "curves.png"


def check_folder(output: Path, config: RunConfig, *, resume: bool) -> None:
    """Check that a run can be started, or resumed, in a folder.

    Raises:
        UsageError: it holds a run already, or none to resume, or one that was asked otherwise.
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


def start_folder(output: Path, config: RunConfig, environment: Mapping[str, str]) -> None:
    """Write what is asked, and where.

    Raises:
        UsageError: the folder cannot be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / ENVIRONMENT_FILE, environment)
        write_json(output / CONFIG_FILE, as_recorded(config))
    except OSError as error:
        raise UsageError(
            f"{output} cannot be written: {error}.", "Choose another --output."
        ) from error


def finish_folder(output: Path, evaluation: Evaluation) -> None:
    """Write what the run came to, and draw its learning curves.

    Raises:
        UsageError: the folder cannot be written.
    """
    try:
        write_json(output / METRICS_FILE, dataclasses.asdict(evaluation))
    except OSError as error:
        raise UsageError(
            f"{output} cannot be written: {error}.",
            "Free some space, then run the same command with --resume.",
        ) from error
    save_figure(draw_curves([read_run(output)]), output / CURVES_FILE)


def _check_same(output: Path, config: RunConfig) -> None:
    found = read_run(output)
    if found.reason is not None:
        raise UsageError(
            f"The run in {output} cannot go on: {found.reason}.", "Choose another --output."
        )
    check_same(found, config)
