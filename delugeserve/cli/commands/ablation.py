"""``delugeserve ablation``: a DelugeNet against its ResNet-like baselines, over several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from delugeserve.cli.options import (
    PRECISION_HELP,
    Csv,
    Json,
    Plot,
    check_output_file,
    complete_models,
    with_default,
)
from delugeserve.cli.render.console import err_console, print_json, print_table, print_warning
from delugeserve.cli.render.csv_file import write_csv
from delugeserve.cli.render.progress import show_progress
from delugeserve.cli.render.recipe import print_recipe
from delugeserve.cli.render.resume import say_how_to_resume
from delugeserve.cli.training_options import FuseSums
from delugeserve.errors import UsageError
from delugeserve.system.imports import require
from delugeserve.training.config import RunConfig, resolve_precision
from delugeserve.training.recipes import RECIPES, find_recipe, override
from delugeserve.zoo import MODELS, find_baselines, find_model

if TYPE_CHECKING:
    from delugeserve.studies.ablation import Ablation, Difference, NetworkResult
    from delugeserve.studies.trials import Trial

_COMPARABLE = ", ".join(model.name for model in MODELS.values() if find_baselines(model))


def command(
    output: Annotated[Path, typer.Option(help="Folder for the runs, such as ablation.")],
    model: Annotated[
        str | None,
        typer.Option(
            help=f"DelugeNet with baselines: {_COMPARABLE}. Required without --report-only.",
            autocompletion=complete_models,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            envvar="DELUGESERVE_DATA",
            help="Data set, as for 'delugeserve train'. Required without --report-only.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help=with_default(
                "What to compare with: the baselines 1x1 and 3x3, and 'fixed', the DelugeNet "
                "whose cross-layer weights stay equal.",
                "1x1,3x3; with --report-only, every network with runs",
            ),
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of seeds per model, from 0 to N-1.")
    ] = 3,
    recipe: Annotated[
        Literal["cifar-quick", "cifar"],
        typer.Option(help="Training recipe; 'cifar' is the paper's."),
    ] = "cifar-quick",
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=with_default(
                "Passes over the training images.",
                "; ".join(f"{RECIPES[name].epochs} ({name})" for name in ("cifar-quick", "cifar")),
            ),
        ),
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        typer.Option(help=PRECISION_HELP),
    ] = "auto",
    limit: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Train on the first N images only.")
    ] = None,
    watch_limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="After each epoch, test on the first N test images only. The final errors are of "
            "all.",
        ),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Compile the training step (needs a C++ compiler)."),
    ] = False,
    fuse_sums: FuseSums = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Train nothing; report the finished runs.")
    ] = False,
    plot: Plot = None,
    csv: Csv = None,
    json: Json = False,
) -> None:
    """Train a DelugeNet and its baselines with several seeds, and compare their test errors.

    Trains on the GPU if there is one, otherwise on the CPU.

    Run the same command again to resume after an interruption; raise --seeds to add runs.
    """
    from delugeserve.plotting import check_picture_path, save_figure
    from delugeserve.studies.ablation import describe, read_ablation, write_ablation
    from delugeserve.studies.trials import (
        PAPERS_CONTRASTS,
        compared_networks,
        parse_contrasts,
        plan_trials,
    )

    if plot is not None:
        check_picture_path(plot)
        require("matplotlib.figure", "train")
    if csv is not None:
        check_output_file(csv)
    spec = find_model(model) if model else None
    contrasts = parse_contrasts(against) if against is not None else None
    if spec is not None:
        compared_networks(spec)
    if not report_only:
        if spec is None or data is None:
            raise UsageError(
                "An ablation needs a model and images.",
                "Use --model and --data, or --report-only to report finished runs.",
            )
        config = RunConfig(
            model=spec.name,
            recipe=override(find_recipe(recipe), epochs=epochs),
            seed=0,
            precision=resolve_precision(precision),
            data=data,
            limit=limit,
            watch_limit=watch_limit,
            compile=compiled,
            fuse_sums=fuse_sums,
        )
        contrasts = contrasts or PAPERS_CONTRASTS
        _train(plan_trials(compared_networks(spec, contrasts), seeds, output), config, output)
    ablation = read_ablation(output, spec, contrasts)
    path = write_ablation(ablation, output)
    if plot is not None:
        from delugeserve.studies.ablation_plots import draw_ablation

        save_figure(draw_ablation(ablation), plot)
    if csv is not None:
        _write_csv(ablation, csv)
    if json:
        print_json(describe(ablation))
    else:
        _print_networks(ablation)
        _print_differences(ablation)
    for name in ablation.left_out:
        print_warning(f"{name} is not finished and left out.")
    for written in (path, plot, csv):
        if written is not None:
            err_console.print(f"written to {written}", markup=False)


def _train(trials: Sequence[Trial], config: RunConfig, output: Path) -> None:
    for module in ("torch", "lightning", "safetensors"):
        require(module, "train")
    from delugeserve.studies.trials import train_missing

    err_console.print(f"{len(trials)} runs in {escape(str(output))} on {escape(config.data)}")
    print_recipe(config)
    with say_how_to_resume(), show_progress() as progress:
        train_missing(trials, config, progress=progress)


def _print_networks(ablation: Ablation) -> None:
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
            for network in ablation.networks
        ),
    )
    seeds = _seeds(ablation.networks)
    print_table(
        ("network", *map(str, seeds)),
        (
            (network.name, *(_figure(network.errors.get(seed)) for seed in seeds))
            for network in ablation.networks
        ),
        title="\nerror % by seed",
    )


def _print_differences(ablation: Ablation) -> None:
    print_table(
        ("network", "DelugeNet", "pairs", "points", "95 % interval", "bootstrap", "paper"),
        (_difference_row(difference) for difference in ablation.differences),
        title=f"\nerror minus that of {ablation.networks[0].name}, paired by seed",
        texts=2,
    )


def _difference_row(one: Difference) -> tuple[str, ...]:
    return (
        one.name,
        one.verdict,
        str(len(one.seeds)),
        _figure(one.mean, "+.2f"),
        _interval(one.interval),
        _interval(one.bootstrap),
        _figure(one.published, "+.2f"),
    )


def _interval(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:+.2f} to {interval[1]:+.2f}" if interval else "-"


def _write_csv(ablation: Ablation, path: Path) -> None:
    seeds = _seeds(ablation.networks)
    write_csv(
        path,
        ("network", "params", "flops", "mean_error", "deviation", *(f"seed{s}" for s in seeds)),
        (
            (n.name, n.params, n.flops, n.mean, n.deviation, *(n.errors.get(s) for s in seeds))
            for n in ablation.networks
        ),
    )


def _seeds(networks: tuple[NetworkResult, ...]) -> list[int]:
    return sorted({seed for network in networks for seed in network.errors})


def _figure(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)
