"""From what a person asks for to the settings of a run: a new one, or one to resume."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delugeserve.errors import ResumeError, UsageError
from delugeserve.training.config import RunConfig
from delugeserve.training.recipes import override
from delugeserve.training.records import (
    CONFIG_FILE,
    METRICS_FILE,
    RunRecord,
    check_settings,
    read_config,
    read_run,
)
from delugeserve.zoo import ModelSpec, find_model


@dataclass(frozen=True)
class Request:
    """What :func:`delugeserve.training.run.train` is called with.

    Attributes:
        spec: the network.
        config: the settings of the run.
        output: the run's folder.
        resume: whether the folder holds the run already.
    """

    spec: ModelSpec
    config: RunConfig
    output: Path
    resume: bool


def request_resume(folder: Path, settings: Mapping[str, Any], recipe: Mapping[str, Any]) -> Request:
    """Return the request to resume a run: its own settings, perhaps with more epochs.

    Args:
        folder: the run's folder.
        settings: the fields of :class:`RunConfig` that were given again.
        recipe: the recipe's values that were given again; ``name`` for the recipe itself.

    Raises:
        UsageError: there is no run, it is damaged, or it has ended and is given no more epochs.
        ResumeError: a setting that was given again has another value.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise UsageError(
            f"{folder} holds no run to resume.",
            "Give the folder of a run; 'delugeserve runs' lists those in runs/.",
        )
    record = read_run(folder)
    before = read_config(record)
    values = dict(recipe)
    name = values.pop("name", before.recipe.name)
    if name != before.recipe.name:
        raise ResumeError(folder, {"recipe": (before.recipe.name, name)})
    config = dataclasses.replace(before, **settings, recipe=override(before.recipe, **values))
    check_settings(record, config, more_epochs=True)
    if config.recipe.epochs == before.recipe.epochs and _has_ended(record):
        raise UsageError(
            f"The run in {folder} has ended: all of its {before.recipe.epochs} epochs are trained.",
            f"To train on, give more, such as --epochs {2 * before.recipe.epochs}.",
        )
    return Request(find_model(config.model), config, folder, resume=True)


def _has_ended(record: RunRecord) -> bool:
    return record.status == "finished" and (record.path / METRICS_FILE).is_file()
