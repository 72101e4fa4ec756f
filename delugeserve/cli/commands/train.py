"""``delugeserve train``: images to a checkpoint."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import typer

from delugeserve.cli import recipe_options, training_options
from delugeserve.cli.options import Json, is_given
from delugeserve.cli.render.console import err_console, out, print_json, print_next, start_logging
from delugeserve.cli.render.figures import percent
from delugeserve.cli.render.progress import show_progress
from delugeserve.cli.render.request import print_request
from delugeserve.cli.render.resume import say_how_to_resume
from delugeserve.errors import UsageError
from delugeserve.system import hardware
from delugeserve.system.imports import require
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve.training.config import TaskOptions, resolve_precision
from delugeserve.training.recipes import Recipe


def command(
    context: typer.Context,
    model: training_options.ModelOption = None,
    data: training_options.DataSource = None,
    output: training_options.RunFolder = None,
    resume: training_options.ResumedRun = None,
    recipe: training_options.RecipeOption = None,
    initial_checkpoint: training_options.InitialCheckpoint = None,
    freeze: training_options.Freeze = False,
    teacher: training_options.TeacherOption = None,
    name: training_options.NetworkName = None,
    seed: training_options.Seed = 0,
    logger: training_options.Logger = "none",
    json: Json = False,
    image_size: training_options.ImageSize = None,
    normalise: training_options.Normalise = None,
    val_fraction: training_options.ValFraction = None,
    limit: training_options.Limit = None,
    on_unreadable: training_options.OnUnreadableOption = "fail",
    workers: training_options.Workers = None,
    epochs: recipe_options.EpochsOption = None,
    batch_size: recipe_options.BatchSizeOption = None,
    learning_rate: recipe_options.LearningRateOption = None,
    schedule: recipe_options.ScheduleOption = None,
    milestones: recipe_options.MilestonesOption = None,
    warmup: recipe_options.WarmupOption = None,
    momentum: recipe_options.MomentumOption = None,
    weight_decay: recipe_options.WeightDecayOption = None,
    label_smoothing: recipe_options.LabelSmoothingOption = None,
    ema_decay: recipe_options.EmaDecayOption = None,
    crop_padding: recipe_options.CropPaddingOption = None,
    crop_area: recipe_options.CropAreaOption = None,
    cutout: recipe_options.CutoutOption = None,
    flip: recipe_options.FlipOption = None,
    augment: recipe_options.AugmentOption = None,
    mixup: recipe_options.MixupOption = None,
    cutmix: recipe_options.CutmixOption = None,
    class_weights: recipe_options.ClassWeightsOption = None,
    sampling: recipe_options.SamplingOption = None,
    partial_batch: recipe_options.PartialBatchOption = None,
    head_first: recipe_options.HeadFirstOption = None,
    freeze_norms: recipe_options.FreezeNormsOption = None,
    patience: recipe_options.PatienceOption = None,
    muon_rate: recipe_options.MuonRateOption = None,
    muon_momentum: recipe_options.MuonMomentumOption = None,
    bias_rate: recipe_options.BiasRateOption = None,
    whiten: recipe_options.WhitenOption = None,
    small_images: recipe_options.SmallImagesOption = None,
    distillation: recipe_options.DistillationOption = None,
    precision: training_options.PrecisionOption = "auto",
    accumulate: training_options.Accumulate = 1,
    compiled: training_options.Compiled = False,
    fuse_sums: training_options.FuseSums = False,
    checkpoint_sums: training_options.CheckpointSums = False,
    deterministic: training_options.Deterministic = False,
    sync_batchnorm: training_options.SyncBatchnorm = False,
) -> None:
    """Train a model and write its checkpoint.

    Trains on the GPU if there is one, otherwise on the CPU.

    On several GPUs: torchrun --nproc-per-node 8 -m delugeserve train ...
    """
    recipe_values = _recipe_values(context)
    settings: dict[str, Any] = {
        "seed": seed,
        "limit": limit,
        "accumulate": accumulate,
        "sync_batchnorm": sync_batchnorm,
        "deterministic": deterministic,
        "compile": compiled,
        "fuse_sums": fuse_sums,
        "checkpoint_sums": checkpoint_sums,
        "initial_checkpoint": initial_checkpoint,
        "freeze": freeze,
        "teacher": teacher,
        "logger": logger,
    }
    for module in ("torch", "lightning", "matplotlib.figure", "safetensors"):
        require(module, "train")
    from delugeserve.cli.render.data_report import print_data_report
    from delugeserve.data.report import survey
    from delugeserve.training.batches import Reading
    from delugeserve.training.distributed import current_world, first_reports
    from delugeserve.training.request import request_resume, request_run
    from delugeserve.training.run import train

    world = current_world()
    shown: AbstractContextManager[Progress] = (
        show_progress() if world.is_first else nullcontext(NO_PROGRESS)
    )
    with first_reports(world), shown as progress:
        if resume is not None:
            if output is not None and output.resolve() != resume.resolve():
                raise UsageError(
                    f"--resume '{resume}' and --output '{output}' name two folders.",
                    "Leave out --output.",
                )
            for option in ("image_size", "normalise"):
                if is_given(context, option):
                    raise UsageError(
                        f"--{option.replace('_', '-')} has no effect on a run that is resumed.",
                        "Leave it out.",
                    )
            again = {"model": model, "data": data, "name": name, "val_fraction": val_fraction}
            again = _given(context, again | settings, compile="compiled")
            if is_given(context, "precision"):
                again["precision"] = resolve_precision(precision)
            request = request_resume(
                resume, again, _given(context, recipe_values | {"name": recipe}, name="recipe")
            )
        else:
            if model is None or data is None or output is None:
                raise _missing(model=model, data=data, output=output)
            request = request_run(
                model,
                data,
                output,
                options=TaskOptions(name, image_size, normalise),
                recipe=recipe,
                recipe_values=recipe_values,
                val_fraction=val_fraction,
                settings=settings | {"precision": resolve_precision(precision)},
                progress=progress,
            )
    if world.is_first:
        if request.catalogue is not None:
            with show_progress() as progress:
                report = survey(request.catalogue, progress=progress)
            print_data_report(report, err_console)
        print_request(request, world.size)
    else:
        start_logging("WARNING")
    if workers is None:
        workers = max(1, hardware.usable_cores() // world.local_size)
    reading = Reading(workers, on_unreadable)
    with say_how_to_resume(request.output), show_progress() as progress:
        trained = train(
            request.spec,
            request.config,
            request.output,
            catalogue=request.catalogue,
            reading=reading,
            resume=request.resume,
            progress=progress,
        )
    if trained is None:  # the first process prints the result
        return
    path, evaluation = trained
    if json:
        print_json({"checkpoint": str(path), **dataclasses.asdict(evaluation)})
    else:
        top5 = evaluation.top5_error
        out.print(
            f"{path}: top-1 error {percent(evaluation.top1_error)}"
            + ("" if top5 is None else f", top-5 error {percent(top5)}")
            + f" on {evaluation.num_images:,} {evaluation.split} images",
            markup=False,
        )
    print_next(f"delugeserve export --checkpoint {shlex.quote(str(path))}")


def _recipe_values(context: typer.Context) -> dict[str, Any]:
    """Return the options that override a recipe's values: those with the name of its fields."""
    fields = dataclasses.fields(Recipe)[1:]
    values = {f.name: context.params[f.name] for f in fields if f.name in context.params}
    if values["milestones"] is not None:
        values["milestones"] = _parse_milestones(values["milestones"])
    return values


def _parse_milestones(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UsageError(
            f"--milestones '{text}' is not a list of numbers.",
            "Use fractions of the epochs, such as --milestones 0.5,0.75.",
        ) from error


def _given(context: typer.Context, values: Mapping[str, Any], **options: str) -> dict[str, Any]:
    """Return the values whose options are on the command line.

    Args:
        context: the command line.
        values: by the name of their parameter.
        options: names of parameters that are not those of their values.
    """
    return {k: v for k, v in values.items() if is_given(context, options.get(k, k))}


def _missing(**options: object) -> UsageError:
    missing = [f"--{name}" for name, value in options.items() if value is None]
    return UsageError(
        f"A new run needs {', '.join(missing)}.",
        "Give all of --model, --data and --output, or --resume RUN to continue a run.",
    )
