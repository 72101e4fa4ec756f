"""``delugeserve train``: images to a checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from delugeserve.cli.commands.recipes import print_recipe
from delugeserve.cli.render.console import err_console, out, print_json, print_next
from delugeserve.data.unreadable import OnUnreadable
from delugeserve.errors import UnknownNameError, UsageError, require
from delugeserve.system import hardware
from delugeserve.training.recipes import check_effect, default_recipe, find_recipe, override
from delugeserve.zoo import find_model

if TYPE_CHECKING:
    from delugeserve.training.config import RunConfig

_PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_RECIPE = "The recipe, value by value"
_MACHINE = "Memory, speed and several GPUs"


def command(
    model: Annotated[str, typer.Option(help="Name of the model; see 'models'.")],
    data: Annotated[
        str,
        typer.Option(
            envvar="DELUGESERVE_DATA",
            help="Folder or archive of images (parquet, CIFAR archives, class folders), "
            "or 'cifar10', 'cifar100' to fetch.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder of the run, such as runs/first.")],
    recipe: Annotated[
        str | None,
        typer.Option(
            help="cifar or imagenet (the paper's), or cifar-quick.",
            show_default="imagenet for ImageNet, or else cifar-quick",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the images.", rich_help_panel=_RECIPE)
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Images of a step, over all processes.", rich_help_panel=_RECIPE),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="The highest rate.", rich_help_panel=_RECIPE)
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="step, one-cycle or cosine.", rich_help_panel=_RECIPE)
    ] = None,
    milestones: Annotated[
        str | None,
        typer.Option(
            help="Fractions of the epochs after which 'step' divides the rate by ten, "
            "such as 0.5,0.75.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    warmup: Annotated[
        float | None,
        typer.Option(
            help="Fraction of the steps in which the other schedules rise.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    momentum: Annotated[
        float | None, typer.Option(help="Nesterov's.", rich_help_panel=_RECIPE)
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="L2 penalty.", rich_help_panel=_RECIPE)
    ] = None,
    label_smoothing: Annotated[
        float | None,
        typer.Option(help="Probability spread over all classes.", rich_help_panel=_RECIPE),
    ] = None,
    ema_decay: Annotated[
        float | None,
        typer.Option(help="Of the weights' moving average; 0: none.", rich_help_panel=_RECIPE),
    ] = None,
    crop_padding: Annotated[
        int | None,
        typer.Option(help="Pixels around an image before a crop.", rich_help_panel=_RECIPE),
    ] = None,
    cutout: Annotated[
        int | None,
        typer.Option(help="Side of a square that is covered; 0: none.", rich_help_panel=_RECIPE),
    ] = None,
    initial_checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Start from the weights of this checkpoint of the same model.",
            show_default="random weights",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order and augmentation.")] = 0,
    limit: Annotated[int | None, typer.Option(min=2, help="Train on the first images only.")] = (
        None
    ),
    on_unreadable: Annotated[
        OnUnreadable,
        typer.Option(
            help="What to do about an image that cannot be read: fail, or skip and name it."
        ),
    ] = "fail",
    precision: Annotated[
        str, typer.Option(help="fp32, bf16, fp16 or auto.", rich_help_panel=_MACHINE)
    ] = "auto",
    accumulate: Annotated[
        int,
        typer.Option(
            min=1, help="Divide a step's images into so many batches.", rich_help_panel=_MACHINE
        ),
    ] = 1,
    sync_batchnorm: Annotated[
        bool,
        typer.Option(
            "--sync-batchnorm", help="BatchNorm over all processes.", rich_help_panel=_MACHINE
        ),
    ] = False,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Use only algorithms that repeat to the bit, on GPUs too.",
            rich_help_panel=_MACHINE,
        ),
    ] = False,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the step; needs a C++ compiler, or for a GPU one of C.",
            rich_help_panel=_MACHINE,
        ),
    ] = False,
    fuse_sums: Annotated[
        bool,
        typer.Option(
            "--fuse-sums",
            help="Compile the cross-layer sums alone; needs the same.",
            rich_help_panel=_MACHINE,
        ),
    ] = False,
    checkpoint_sums: Annotated[
        bool,
        typer.Option(
            "--checkpoint-sums",
            help="Save memory: compute the sums twice.",
            rich_help_panel=_MACHINE,
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Processes that decode ImageNet, for each that trains.",
            show_default="its share of the cores",
            rich_help_panel=_MACHINE,
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after an interruption.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a model and write its checkpoint.

    On several GPUs: torchrun --nproc-per-node 8 -m delugeserve train ...
    """
    spec = find_model(model)
    values = {
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
    }
    named = find_recipe(recipe) if recipe else default_recipe(spec.dataset)
    resolved = override(named, **values)
    check_effect(resolved, spec.dataset, [name for name in values if values[name] is not None])
    if precision not in _PRECISIONS:
        raise UnknownNameError("precision", precision, _PRECISIONS)
    for module in ("torch", "lightning", "matplotlib.figure", "safetensors"):
        require(module, "train")
    from delugeserve.training.batches import Reading
    from delugeserve.training.config import RunConfig, resolve_precision
    from delugeserve.training.distributed import current_world
    from delugeserve.training.run import train

    world = current_world()
    config = RunConfig(
        spec.name,
        resolved,
        seed,
        resolve_precision(precision),  # type: ignore[arg-type]
        data,
        limit,
        accumulate,
        sync_batchnorm,
        deterministic,
        compiled,
        fuse_sums,
        checkpoint_sums,
        None if initial_checkpoint is None else str(initial_checkpoint),
    )
    if world.is_first:
        _print_config(config, world.size)
    if workers is None:
        workers = max(1, hardware.usable_cores() // world.local_size)
    trained = train(
        spec,
        config,
        output,
        reading=Reading(workers, on_unreadable),
        resume=resume,
        progress=err_console.is_terminal,
        say=lambda line: err_console.print(line, soft_wrap=True, markup=False),
    )
    if trained is None:  # the first process says what came of it
        return
    path, evaluation = trained
    if json:
        print_json({"checkpoint": str(path), **dataclasses.asdict(evaluation)})
    else:
        out.print(
            f"{path}: top-1 error {evaluation.top1_error:.2f} %"
            + ("" if (e := evaluation.top5_error) is None else f", top-5 error {e:.2f} %")
            + f" on {evaluation.num_images:,} test images",
            soft_wrap=True,
        )
    print_next(f"delugeserve export --model {spec.name} --checkpoint {path}")


def _parse_milestones(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UsageError(
            f"--milestones {text} is no list of numbers.",
            "Give fractions of the epochs, such as 0.5,0.75.",
        ) from error


def _print_config(config: RunConfig, processes: int) -> None:
    """Say what will be done."""
    err_console.print(
        f"[bold]{config.model}[/] on {escape(config.data)} in {config.precision}, "
        f"seed {config.seed}" + (f", {processes} processes" if processes > 1 else ""),
        soft_wrap=True,
    )
    print_recipe(config.recipe)
