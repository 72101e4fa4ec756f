"""From what a person asks for to the settings of a run: a new one, or one to resume."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delugeserve.artifacts.checkpoints import read_header
from delugeserve.artifacts.references import resolve_checkpoint
from delugeserve.data.catalogue import Catalogue, open_source
from delugeserve.data.labels import simplify
from delugeserve.data.options import VAL_FRACTION
from delugeserve.errors import ResumeError, UsageError, nearest_path
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve.training.config import RunConfig, TaskOptions, default_val_fraction
from delugeserve.training.distillation import check_teacher
from delugeserve.training.initial import check_architecture
from delugeserve.training.recipes import choose_recipe, default_recipe, override
from delugeserve.training.records import (
    CONFIG_FILE,
    METRICS_FILE,
    RunRecord,
    check_settings,
    read_config,
    read_run,
)
from delugeserve.training.task import ChosenTask, choose_task
from delugeserve.zoo import ModelSpec, find_model

# The recipe "finetune" for a network that knows all classes: at the rate that a new classifier
# needs, and with the statistics of a few images, it would forget more than it learns.
_CAREFUL = {"learning_rate": 3e-4, "head_first": 0.0, "freeze_norms": True}


@dataclass(frozen=True)
class Request:
    """What :func:`delugeserve.training.run.train` is called with.

    Attributes:
        spec: the network.
        config: the settings of the run.
        output: the run's folder.
        resume: whether the folder holds the run already.
        task: how the task of a new run was chosen; None for a run to resume.
        catalogue: the data of a new run, opened.
    """

    spec: ModelSpec
    config: RunConfig
    output: Path
    resume: bool
    task: ChosenTask | None = None
    catalogue: Catalogue | None = None


def request_run(
    model: str,
    data: str,
    output: Path,
    *,
    options: TaskOptions,
    recipe: str | None,
    recipe_values: Mapping[str, Any],
    val_fraction: float | None = None,
    settings: Mapping[str, Any],
    progress: Progress = NO_PROGRESS,
) -> Request:
    """Return the request for a new run.

    Args:
        model: name of a registered model.
        data: a path or a public data set's name.
        output: the run's folder.
        options: what was asked for in place of the model's task.
        recipe: the recipe's name; None for the task's default.
        recipe_values: values by attribute that override the recipe's; None keeps it.
        val_fraction: part of the training images to hold out; None for the default.
        settings: the other fields of :class:`RunConfig`.
        progress: receives what is read of the data.

    Raises:
        UsageError: a request cannot be met; nothing is written.
    """
    spec = find_model(model)
    if (output / CONFIG_FILE).exists():
        raise UsageError(
            f"{output} already holds a run.",
            f"Continue it with --resume {shlex.quote(str(output))}, or choose another --output.",
        )
    reference = settings.get("initial_checkpoint")
    if reference is None:
        _check_untrained(recipe, recipe_values, freeze=bool(settings.get("freeze")))
    teacher = settings.get("teacher")
    if recipe_values.get("distillation") is not None and teacher is None:
        raise UsageError(
            "--distillation has no effect without a teacher.", "Add --teacher, or leave it out."
        )
    initial = None
    if reference is not None:
        path = resolve_checkpoint(reference)
        initial = read_header(path).spec
        check_architecture(path, initial, spec)
    fraction = VAL_FRACTION if val_fraction is None else val_fraction
    catalogue = open_source(data, val_fraction=fraction, progress=progress)
    catalogue.require_training()
    task = choose_task(spec, catalogue, output, options, initial=initial, progress=progress)
    if recipe is None:
        fine_tuned = task.own and initial is not None
        recipe = "finetune" if fine_tuned else default_recipe(task.spec.task).name
    if teacher is not None:
        settings = {**settings, "teacher": str(check_teacher(teacher, task.spec.task))}
    chosen = choose_recipe(task.spec.task, recipe, **recipe_values)
    if initial is not None and recipe == "finetune" and _knows(initial, task.spec):
        given = {name for name, value in recipe_values.items() if value is not None}
        chosen = override(chosen, **{k: v for k, v in _CAREFUL.items() if k not in given})
    if val_fraction is None:
        val_fraction = default_val_fraction(chosen, own_task=task.own)
        if catalogue.splits == ("train", "validation") and catalogue.held_out is not None:
            val_fraction = VAL_FRACTION  # there is nothing else to measure on
    elif val_fraction and "validation" in catalogue.splits and catalogue.held_out is None:
        raise UsageError(
            f"--val-fraction has no effect: {data} has a validation split.", "Leave it out."
        )
    if not val_fraction and catalogue.held_out is not None:
        catalogue = open_source(data, val_fraction=0.0, progress=progress)
    if task.own:
        catalogue.require_validation()
    config = RunConfig(
        model=model,
        recipe=chosen,
        data=data,
        name=None if task.spec.name == model else task.spec.name,
        task=task.spec.task if task.own else None,
        val_fraction=val_fraction,
        **settings,
    )
    return Request(task.spec, config, output, resume=False, task=task, catalogue=catalogue)


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
        nearest = None if folder.exists() else nearest_path(folder)
        raise UsageError(
            f"{folder} holds no run to resume.",
            f"Did you mean '{nearest}'?"
            if nearest
            else "Give the folder of a run; 'delugeserve runs' lists those in runs/.",
        )
    record = read_run(folder)
    before = read_config(record)
    values = dict(recipe)
    name = values.pop("name", before.recipe.name)
    if name != before.recipe.name:
        raise _cannot_change(ResumeError(folder, {"recipe": (before.recipe.name, name)}))
    config = dataclasses.replace(before, **settings, recipe=override(before.recipe, **values))
    try:
        check_settings(record, config, more_epochs=True)
    except ResumeError as error:
        raise _cannot_change(error) from None
    if config.recipe.epochs == before.recipe.epochs and _has_ended(record):
        raise UsageError(
            f"The run in {folder} has ended, after {len(record.epochs)} of at most "
            f"{before.recipe.epochs} epochs.",
            f"To train on, give more, such as --epochs {2 * before.recipe.epochs}.",
        )
    return Request(config.network(), config, folder, resume=True)


def _check_untrained(recipe: str | None, values: Mapping[str, Any], *, freeze: bool) -> None:
    """Refuse what makes sense for trained weights only."""
    if freeze:
        raise UsageError(
            "--freeze trains the classifier alone, which needs weights for everything else.",
            "Add --initial-checkpoint, or leave out --freeze.",
        )
    if values.get("freeze_norms"):
        raise UsageError(
            "--freeze-norms keeps the BatchNorm statistics of trained weights, and there are none.",
            "Add --initial-checkpoint, or leave out --freeze-norms.",
        )
    if recipe == "finetune":
        raise UsageError(
            "The recipe finetune starts from trained weights, and there are none.",
            "Add --initial-checkpoint, or leave out --recipe finetune.",
        )


def _has_ended(record: RunRecord) -> bool:
    return record.status == "finished" and (record.path / METRICS_FILE).is_file()


def _knows(initial: ModelSpec, spec: ModelSpec) -> bool:
    """Whether a network has outputs for all classes of another one."""
    known, wanted = ({simplify(name) for name in one.task.class_names} for one in (initial, spec))
    return wanted <= known


def _cannot_change(error: ResumeError) -> ResumeError:
    options = " and ".join(f"--{name.replace('_', '-')}" for name in error.changed)
    error.remedy = f"Leave out {options}: a resumed run keeps its settings."
    if "epochs" in error.changed:
        error.remedy = "A run can be given more epochs, not fewer: leave out --epochs."
    return error
