"""``delugeserve train``: images to a checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from delugeserve.cli.console import out, print_json, print_next, talk
from delugeserve.errors import UnknownNameError, require
from delugeserve.training.recipes import Recipe, find_recipe
from delugeserve.zoo import find_model

_PRECISIONS = ("auto", "fp32", "bf16")


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
    recipe: Annotated[str, typer.Option(help="cifar (the paper's) or cifar-quick.")] = (
        "cifar-quick"
    ),
    epochs: Annotated[int | None, typer.Option(min=1, help="Override the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Override the recipe's.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Override the recipe's peak.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Override the recipe's.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or auto.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    limit: Annotated[int | None, typer.Option(min=2, help="Train on the first images only.")] = (
        None
    ),
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the step; needs a C++ compiler or a GPU.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after an interruption.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a model and write its checkpoint."""
    spec = find_model(model)
    overrides = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
    }
    resolved = _override(find_recipe(recipe), overrides)
    if precision not in _PRECISIONS:
        raise UnknownNameError("precision", precision, _PRECISIONS)
    for module in ("torch", "lightning", "safetensors"):
        require(module, "train")
    from delugeserve.training.run import RunConfig, resolve_precision, train

    config = RunConfig(
        spec.name,
        resolved,
        seed,
        resolve_precision(precision),  # type: ignore[arg-type]
        data,
        limit,
        compiled,
    )
    talk.print(f"[bold]{spec.name}[/] on {escape(data)} in {config.precision}, seed {seed}")
    talk.print(f"[dim]{resolved}[/]", soft_wrap=True)
    path, evaluation = train(
        spec,
        config,
        output,
        resume=resume,
        progress=talk.is_terminal,
        say=lambda line: talk.print(line, soft_wrap=True),
    )
    if json:
        print_json({"checkpoint": str(path), **dataclasses.asdict(evaluation)})
    else:
        out.print(
            f"{path}: top-1 error {evaluation.top1_error:.2f} %, "
            f"top-5 error {evaluation.top5_error:.2f} % on {evaluation.num_images:,} test images",
            soft_wrap=True,
        )
    print_next(f"delugeserve export --model {spec.name} --checkpoint {path}")


def _override(recipe: Recipe, overrides: dict[str, Any]) -> Recipe:
    given = {name: value for name, value in overrides.items() if value is not None}
    return dataclasses.replace(recipe, **given)
