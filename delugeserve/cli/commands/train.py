"""``delugeserve train``: images to a checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from delugeserve.cli.options import RecipeName, TrainingPrecision, complete_models, with_default
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
from delugeserve.zoo import find_model

_DATA, _RECIPE, _MACHINE = "Data", "Recipe (overrides single values)", "Memory, speed and GPUs"


def _option(help_: str, panel: str, *names: str, default: str | None = None, **more: Any) -> Any:
    if default is not None:
        help_, more["show_default"] = with_default(help_, default), False
    return typer.Option(*names, help=help_, rich_help_panel=panel, **more)


def command(
    model: Annotated[
        str, typer.Option(help="Name of the model; see 'models'.", autocompletion=complete_models)
    ],
    data: Annotated[
        str,
        typer.Option(
            envvar="DELUGESERVE_DATA",
            help="Folder or archive of images (parquet files, CIFAR archives, class folders), "
            "or 'cifar10' or 'cifar100' to download.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder of the run, such as runs/first.")],
    recipe: Annotated[
        RecipeName | None,
        typer.Option(
            help=with_default(
                "Training recipe; 'cifar' and 'imagenet' are the paper's.",
                "imagenet for ImageNet models, cifar-quick for others",
            ),
            show_default=False,
        ),
    ] = None,
    initial_checkpoint: Annotated[
        str | None,
        typer.Option(
            help=with_default(
                "Start from these weights of the same model: a checkpoint, a run folder, or the "
                "name of a model that ships with weights.",
                "random weights",
            ),
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of weights, image order and augmentation.")
    ] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --output after an interruption.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    limit: Annotated[
        int | None, _option("Train on the first N images only.", _DATA, min=2, metavar="N")
    ] = None,
    on_unreadable: Annotated[
        OnUnreadable,
        _option("What to do with an image that cannot be decoded: stop, or skip it.", _DATA),
    ] = "fail",
    workers: Annotated[
        int | None,
        _option(
            "Processes that decode ImageNet images, for each training process.",
            _DATA,
            default="an equal share of the cores",
            min=0,
        ),
    ] = None,
    epochs: Annotated[int | None, _option("Passes over the training images.", _RECIPE)] = None,
    batch_size: Annotated[
        int | None, _option("Images per optimiser step, over all processes.", _RECIPE)
    ] = None,
    learning_rate: Annotated[float | None, _option("Highest learning rate.", _RECIPE)] = None,
    schedule: Annotated[Schedule | None, _option("Learning rate schedule.", _RECIPE)] = None,
    milestones: Annotated[
        str | None,
        _option(
            "For 'step': fractions of the epochs after which the rate is divided by ten, such as "
            "0.5,0.75.",
            _RECIPE,
            metavar="LIST",
        ),
    ] = None,
    warmup: Annotated[
        float | None,
        _option("For 'one-cycle' and 'cosine': fraction of the steps with a rising rate.", _RECIPE),
    ] = None,
    momentum: Annotated[float | None, _option("Nesterov momentum; 0 for none.", _RECIPE)] = None,
    weight_decay: Annotated[
        float | None, _option("L2 penalty on every parameter; 0 for none.", _RECIPE)
    ] = None,
    label_smoothing: Annotated[
        float | None, _option("Probability spread over all classes; 0 for none.", _RECIPE)
    ] = None,
    ema_decay: Annotated[
        float | None,
        _option("Decay per step of the weights' moving average; 0 for no average.", _RECIPE),
    ] = None,
    crop_padding: Annotated[
        int | None, _option("Pixels around an image before a random crop.", _RECIPE)
    ] = None,
    cutout: Annotated[
        int | None, _option("Side in pixels of a square that is covered; 0 for none.", _RECIPE)
    ] = None,
    precision: Annotated[
        TrainingPrecision,
        _option("Precision of training steps; 'auto' is bf16 where that is native.", _MACHINE),
    ] = "auto",
    accumulate: Annotated[
        int, _option("Divide a step's images into this many batches.", _MACHINE, min=1)
    ] = 1,
    compiled: Annotated[
        bool, _option("Compile the training step (needs a C++ compiler).", _MACHINE, "--compile")
    ] = False,
    fuse_sums: Annotated[
        bool,
        _option("Compile only the cross-layer sums (needs the same).", _MACHINE, "--fuse-sums"),
    ] = False,
    checkpoint_sums: Annotated[
        bool,
        _option("Save memory: compute the cross-layer sums twice.", _MACHINE, "--checkpoint-sums"),
    ] = False,
    deterministic: Annotated[
        bool,
        _option("Use only algorithms that repeat bit for bit.", _MACHINE, "--deterministic"),
    ] = False,
    sync_batchnorm: Annotated[
        bool,
        _option("BatchNorm statistics over all processes.", _MACHINE, "--sync-batchnorm"),
    ] = False,
) -> None:
    """Train a model and write its checkpoint.

    On several GPUs: torchrun --nproc-per-node 8 -m delugeserve train ...
    """
    spec = find_model(model)
    chosen = choose_recipe(
        spec.dataset,
        recipe,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule=schedule,
        milestones=None if milestones is None else _parse_milestones(milestones),
        warmup=warmup,
        momentum=momentum,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        ema_decay=ema_decay,
        crop_padding=crop_padding,
        cutout=cutout,
    )
    for module in ("torch", "lightning", "matplotlib.figure", "safetensors"):
        require(module, "train")
    from delugeserve.training.batches import Reading
    from delugeserve.training.distributed import current_world
    from delugeserve.training.run import train

    config = RunConfig(
        model=spec.name,
        recipe=chosen,
        seed=seed,
        precision=resolve_precision(precision),
        data=data,
        limit=limit,
        accumulate=accumulate,
        sync_batchnorm=sync_batchnorm,
        deterministic=deterministic,
        compile=compiled,
        fuse_sums=fuse_sums,
        checkpoint_sums=checkpoint_sums,
        initial_checkpoint=initial_checkpoint,
    )
    world = current_world()
    if world.is_first:
        _print_config(config, spec.dataset.image_size, world.size)
    else:
        start_logging("WARNING")
    if workers is None:
        workers = max(1, hardware.usable_cores() // world.local_size)
    reading = Reading(workers, on_unreadable)
    with say_how_to_resume("--resume"), show_progress() as progress:
        trained = train(spec, config, output, reading=reading, resume=resume, progress=progress)
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
    print_next(f"delugeserve export --model {spec.name} --checkpoint {path}")


def _parse_milestones(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UsageError(
            f"--milestones '{text}' is not a list of numbers.",
            "Use fractions of the epochs, such as --milestones 0.5,0.75.",
        ) from error


def _print_config(config: RunConfig, image_size: int, processes: int) -> None:
    several = f", {processes} processes" if processes > 1 else ""
    err_console.print(
        f"[bold]{config.model}[/] on {escape(config.data)}, {image_size}x{image_size} pixels, "
        f"{config.precision}, seed {config.seed}{several}"
    )
    print_recipe(config.recipe)
