"""``delugeserve ablation``: a DelugeNet against its ResNet-like baselines, over several seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from delugeserve.cli.commands.recipes import print_recipe
from delugeserve.cli.render.console import err_console, print_json, print_table
from delugeserve.errors import UnknownNameError, UsageError, require
from delugeserve.training.recipes import Recipe, find_recipe, override
from delugeserve.zoo import ModelSpec, find_model

if TYPE_CHECKING:
    from delugeserve.studies.ablation import Ablation, Difference

_PRECISIONS = ("auto", "fp32", "bf16")


def command(
    output: Annotated[Path, typer.Option(help="Folder of the runs, such as ablation/.")],
    model: Annotated[
        str | None,
        typer.Option(help="Name of a DelugeNet that has baselines; see 'models'."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(envvar="DELUGESERVE_DATA", help="What to train on; see 'train'."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Train each network with seeds 0, 1, ...")] = 3,
    recipe: Annotated[str, typer.Option(help="cifar (the paper's) or cifar-quick.")] = (
        "cifar-quick"
    ),
    epochs: Annotated[int | None, typer.Option(min=1, help="Override the recipe's.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or auto.")] = "auto",
    limit: Annotated[int | None, typer.Option(min=2, help="Train on the first images only.")] = (
        None
    ),
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile", help="Compile the step; needs a C++ compiler, or for a GPU one of C."
        ),
    ] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Train nothing; report what is finished.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw errors and curves to this PNG or SVG file.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a DelugeNet and its baselines with several seeds, and compare their errors.

    The same command goes on after an interruption; with more --seeds it adds to what is there.
    """
    from delugeserve.plotting import check_picture_path, save_figure
    from delugeserve.studies.ablation import (
        compared_networks,
        describe,
        read_ablation,
        write_ablation,
    )

    if plot is not None:
        check_picture_path(plot)
        require("matplotlib.figure", "train")
    spec = find_model(model) if model else None
    if spec is not None:
        compared_networks(spec)
    if not report_only:
        if spec is None or data is None:
            raise UsageError(
                "An ablation needs a model and images.",
                "Give --model and --data, or --report-only for what is there.",
            )
        resolved = override(find_recipe(recipe), epochs=epochs)
        _train(spec, output, seeds, resolved, precision, data, limit, compiled)
    ablation = read_ablation(output, spec)
    path = write_ablation(ablation, output)
    if plot is not None:
        from delugeserve.studies.ablation_plots import draw_ablation

        save_figure(draw_ablation(ablation), plot)
    if json:
        print_json(describe(ablation))
    else:
        _print_networks(ablation)
        _print_differences(ablation)
    for name in ablation.left_out:
        err_console.print(f"{name} is not finished and left out", markup=False, soft_wrap=True)
    for written in (path, plot):
        if written is not None:
            err_console.print(f"written to {written}", markup=False, soft_wrap=True)


def _train(
    spec: ModelSpec,
    output: Path,
    seeds: int,
    recipe: Recipe,
    precision: str,
    data: str,
    limit: int | None,
    compiled: bool,
) -> None:
    if precision not in _PRECISIONS:
        raise UnknownNameError("precision", precision, _PRECISIONS)
    for module in ("torch", "lightning", "safetensors"):
        require(module, "train")
    from delugeserve.studies.ablation import compared_networks, plan_trials, train_missing
    from delugeserve.training.config import RunConfig, resolve_precision

    config = RunConfig(
        model=spec.name,
        recipe=recipe,
        seed=0,
        precision=resolve_precision(precision),  # type: ignore[arg-type]
        data=data,
        limit=limit,
        compile=compiled,
    )
    trials = plan_trials(compared_networks(spec), seeds, output)
    err_console.print(
        f"{len(trials)} runs in {escape(str(output))} on {escape(data)}", soft_wrap=True
    )
    print_recipe(recipe)
    train_missing(
        trials,
        config,
        progress=err_console.is_terminal,
        say=lambda line: err_console.print(line, soft_wrap=True),
    )


def _print_networks(ablation: Ablation) -> None:
    networks = ablation.networks
    print_table(
        ("network", "#params M", "paper", "GFLOPs", "error %", "sd", "paper"),
        (
            (
                network.name,
                f"{network.params / 1e6:.2f}",
                _figure(network.published_params_m),
                f"{network.flops / 1e9:.2f}",
                _figure(network.mean),
                _figure(network.deviation),
                _figure(network.published_error),
            )
            for network in networks
        ),
    )
    seeds = sorted({seed for network in networks for seed in network.errors})
    print_table(
        ("network", *map(str, seeds)),
        (
            (network.name, *(_figure(network.errors.get(seed)) for seed in seeds))
            for network in networks
        ),
        title="\nerror by seed",
    )


def _print_differences(ablation: Ablation) -> None:
    print_table(
        ("baseline", "DelugeNet", "pairs", "points", "95 % interval", "paper"),
        (_difference_row(difference) for difference in ablation.differences),
        title=f"\nerror above that of {ablation.networks[0].name}, seed by seed",
        texts=2,
    )


def _difference_row(one: Difference) -> tuple[str, ...]:
    interval = f"{one.interval[0]:+.2f} to {one.interval[1]:+.2f}" if one.interval else "-"
    return (
        one.name,
        one.verdict,
        str(len(one.seeds)),
        _figure(one.mean, "+.2f"),
        interval,
        _figure(one.published, "+.2f"),
    )


def _figure(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)
