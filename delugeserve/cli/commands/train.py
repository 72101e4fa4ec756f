"""``delugeserve train``: images to a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from delugeserve.cli.options import (
    MODEL_HELP,
    PRECISION_HELP,
    Json,
    RecipeName,
    TrainingPrecision,
    complete_models,
    with_default,
)
from delugeserve.cli.recipe_options import (
    AugmentOption,
    ClassWeightsOption,
    CutmixOption,
    FlipOption,
    MixupOption,
    SamplingOption,
    panel_option,
    recipe_option,
)
from delugeserve.cli.render.console import err_console, out, print_json, print_next, start_logging
from delugeserve.cli.render.progress import show_progress
from delugeserve.cli.render.recipe import print_recipe
from delugeserve.cli.render.resume import say_how_to_resume
from delugeserve.data.unreadable import OnUnreadable
from delugeserve.errors import UsageError
from delugeserve.system import hardware
from delugeserve.system.imports import require
from delugeserve.training.config import RunConfig, resolve_precision
from delugeserve.training.recipes import Schedule, choose_recipe
from delugeserve.training.request import Request, request_resume
from delugeserve.zoo import find_model

_DATA, _MACHINE = "Data", "Memory, speed and GPUs"


def command(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(help=f"{MODEL_HELP} [dim]\\[required]", autocompletion=complete_models),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            envvar="DELUGESERVE_DATA",
            help="Data set: a folder or archive of images (parquet files, CIFAR archives, class "
            "folders), or 'cifar10' or 'cifar100' to download. [dim]\\[required]",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Run folder to create, such as runs/first: checkpoint, settings, log and curves. "
            "[dim]\\[required]"
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Continue the run in this folder, with its own settings; no other option is "
            "needed. With --epochs N, train it for N epochs in all.",
        ),
    ] = None,
    recipe: Annotated[
        RecipeName | None,
        typer.Option(
            help=with_default(
                "Training recipe; 'cifar' and 'imagenet' are the paper's. Its values are the "
                "defaults below.",
                "imagenet for ImageNet models, cifar-quick for others",
            ),
            show_default=False,
        ),
    ] = None,
    initial_checkpoint: Annotated[
        str | None,
        typer.Option(
            help=with_default(
                "Start from these weights: a checkpoint or run folder of the same model, or its "
                "name for its pretrained weights.",
                "random weights",
            ),
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0, help="Random seed of the weights, the image order and the augmentation."
        ),
    ] = 0,
    json: Json = False,
    limit: Annotated[
        int | None, panel_option("Train on the first N images only.", _DATA, min=2, metavar="N")
    ] = None,
    on_unreadable: Annotated[
        OnUnreadable,
        panel_option("Stop at an image that cannot be decoded, or skip it.", _DATA),
    ] = "fail",
    workers: Annotated[
        int | None,
        panel_option(
            "Data-loading workers for each training process (ImageNet only).",
            _DATA,
            default="an equal share of the cores",
            min=0,
        ),
    ] = None,
    epochs: Annotated[
        int | None, recipe_option("Passes over the training images.", "epochs")
    ] = None,
    batch_size: Annotated[
        int | None,
        recipe_option("Global batch size: images per optimiser step.", "batch_size"),
    ] = None,
    learning_rate: Annotated[
        float | None, recipe_option("Peak learning rate.", "learning_rate")
    ] = None,
    schedule: Annotated[
        Schedule | None, recipe_option("Learning rate schedule.", "schedule")
    ] = None,
    milestones: Annotated[
        str | None,
        recipe_option(
            "For 'step': fractions of the epochs after which the learning rate is divided by ten.",
            "milestones",
            metavar="LIST",
        ),
    ] = None,
    warmup: Annotated[
        float | None,
        recipe_option(
            "For 'one-cycle' and 'cosine': warm-up, as a fraction of all steps.", "warmup"
        ),
    ] = None,
    momentum: Annotated[
        float | None, recipe_option("Nesterov momentum; 0 for none.", "momentum")
    ] = None,
    weight_decay: Annotated[
        float | None,
        recipe_option("Weight decay of every parameter; 0 for none.", "weight_decay"),
    ] = None,
    label_smoothing: Annotated[
        float | None,
        recipe_option("Label smoothing factor; 0 for none.", "label_smoothing"),
    ] = None,
    ema_decay: Annotated[
        float | None,
        recipe_option(
            "Decay per step of the weights' moving average (EMA); 0 for no average.", "ema_decay"
        ),
    ] = None,
    crop_padding: Annotated[
        int | None,
        recipe_option("Padding in pixels for random crops (CIFAR only).", "crop_padding"),
    ] = None,
    cutout: Annotated[
        int | None,
        recipe_option("Cutout size in pixels; 0 for none (CIFAR only).", "cutout"),
    ] = None,
    flip: FlipOption = None,
    augment: AugmentOption = None,
    mixup: MixupOption = None,
    cutmix: CutmixOption = None,
    class_weights: ClassWeightsOption = None,
    sampling: SamplingOption = None,
    precision: Annotated[
        TrainingPrecision,
        panel_option(PRECISION_HELP, _MACHINE),
    ] = "auto",
    accumulate: Annotated[
        int, panel_option("Gradient accumulation: batches per optimiser step.", _MACHINE, min=1)
    ] = 1,
    compiled: Annotated[
        bool,
        panel_option("Compile the training step (needs a C++ compiler).", _MACHINE, "--compile"),
    ] = False,
    fuse_sums: Annotated[
        bool,
        panel_option(
            "Compile only the cross-layer sums (needs a C++ compiler).", _MACHINE, "--fuse-sums"
        ),
    ] = False,
    checkpoint_sums: Annotated[
        bool,
        panel_option(
            "Recompute the cross-layer sums in the backward pass: less memory, more time.",
            _MACHINE,
            "--checkpoint-sums",
        ),
    ] = False,
    deterministic: Annotated[
        bool,
        panel_option("Use deterministic algorithms only.", _MACHINE, "--deterministic"),
    ] = False,
    sync_batchnorm: Annotated[
        bool,
        panel_option(
            "Use SyncBatchNorm: statistics over all processes.", _MACHINE, "--sync-batchnorm"
        ),
    ] = False,
) -> None:
    """Train a model and write its checkpoint.

    Trains on the GPU if there is one, otherwise on the CPU.

    On several GPUs: torchrun --nproc-per-node 8 -m delugeserve train ...
    """
    recipe_values = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "schedule": schedule,
        "milestones": None if milestones is None else _parse_milestones(milestones),
        "warmup": warmup,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "ema_decay": ema_decay,
        "crop_padding": crop_padding,
        "cutout": cutout,
        "flip": flip,
        "augment": augment,
        "mixup": mixup,
        "cutmix": cutmix,
        "class_weights": class_weights,
        "sampling": sampling,
    }
    settings: dict[str, Any] = {
        "model": model,
        "data": data,
        "seed": seed,
        "limit": limit,
        "accumulate": accumulate,
        "sync_batchnorm": sync_batchnorm,
        "deterministic": deterministic,
        "compile": compiled,
        "fuse_sums": fuse_sums,
        "checkpoint_sums": checkpoint_sums,
        "initial_checkpoint": initial_checkpoint,
    }
    for module in ("torch", "lightning", "matplotlib.figure", "safetensors"):
        require(module, "train")
    from delugeserve.training.batches import Reading
    from delugeserve.training.distributed import current_world
    from delugeserve.training.run import train

    if resume is not None:
        if output is not None and output.resolve() != resume.resolve():
            raise UsageError(
                f"--resume {resume} and --output {output} name two folders.", "Leave out --output."
            )
        again = _given(context, settings, compile="compiled")
        if _is_given(context, "precision"):
            again["precision"] = resolve_precision(precision)
        request = request_resume(
            resume, again, _given(context, recipe_values | {"name": recipe}, name="recipe")
        )
    else:
        if model is None or data is None or output is None:
            raise _missing(model=model, data=data, output=output)
        spec = find_model(model)
        chosen = choose_recipe(spec.task, recipe, **recipe_values)
        config = RunConfig(recipe=chosen, precision=resolve_precision(precision), **settings)
        request = Request(spec, config, output, resume=False)
    world = current_world()
    if world.is_first:
        _print_config(request, world.size)
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
            f"{path}: top-1 error {evaluation.top1_error:.2f} %"
            + ("" if top5 is None else f", top-5 error {top5:.2f} %")
            + f" on {evaluation.num_images:,} test images",
            markup=False,
        )
    print_next(f"delugeserve export --model {request.spec.name} --checkpoint {path}")


def _parse_milestones(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UsageError(
            f"--milestones '{text}' is not a list of numbers.",
            "Use fractions of the epochs, such as --milestones 0.5,0.75.",
        ) from error


def _print_config(request: Request, processes: int) -> None:
    config = request.config
    size = request.spec.task.image_size
    several = f", {processes} processes" if processes > 1 else ""
    limit = f", {config.limit:,} training images at most" if config.limit else ""
    resumed = f", resumed in {escape(str(request.output))}" if request.resume else ""
    err_console.print(
        f"[bold]{config.model}[/] on {escape(config.data)}, {size}x{size} pixels, "
        f"{config.precision}, seed {config.seed}{limit}{several}{resumed}"
    )
    print_recipe(config.recipe)


def _is_given(context: typer.Context, option: str) -> bool:
    """Whether an option is on the command line, rather than in the environment or a default."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def _given(context: typer.Context, values: Mapping[str, Any], **options: str) -> dict[str, Any]:
    """Return the values whose options are on the command line.

    Args:
        context: the command line.
        values: by the name of their parameter.
        options: names of parameters that are not those of their values.
    """
    return {k: v for k, v in values.items() if _is_given(context, options.get(k, k))}


def _missing(**options: object) -> UsageError:
    missing = [f"--{name}" for name, value in options.items() if value is None]
    return UsageError(
        f"Training needs {' and '.join(missing)}.",
        "Give all of --model, --data and --output, or --resume RUN to continue a run.",
    )
