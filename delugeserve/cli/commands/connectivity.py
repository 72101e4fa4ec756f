"""``delugeserve connectivity``: how strongly a trained network uses its earlier layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delugeserve.artifacts.references import resolve_checkpoint
from delugeserve.cli.options import (
    Csv,
    Json,
    Plot,
    check_output_file,
    complete_models,
    with_default,
)
from delugeserve.cli.render.console import err_console, print_json, print_table
from delugeserve.cli.render.csv_file import write_csv
from delugeserve.errors import UsageError
from delugeserve.system.imports import require
from delugeserve.zoo import find_model

if TYPE_CHECKING:
    from delugeserve.networks.checkpoint import Checkpoint
    from delugeserve.studies.connectivity import BlockConnectivity

_BAR_WIDTH = 16
_COLUMNS = ("block", "reader", "layer", "relative", "norm", "raw_relative", "raw_norm")


def command(
    subject: Annotated[
        str | None,
        typer.Argument(
            help=with_default(
                "Model name (its pretrained weights), checkpoint or run folder.", "delugenet38"
            ),
            show_default=False,
            autocompletion=complete_models,
        ),
    ] = None,
    checkpoint: Annotated[str | None, typer.Option(hidden=True)] = None,
    model: Annotated[str | None, typer.Option(hidden=True)] = None,
    plot: Plot = None,
    csv: Csv = None,
    json: Json = False,
    output: Annotated[list[Path] | None, typer.Option(hidden=True)] = None,
) -> None:
    """Show how strongly the end of each block uses each layer before it.

    Prints the L2 norms of the cross-layer weights (the paper's figure 3), relative to the largest
    of each block, in both readings: as the gain of a BatchNorm, and as the weight in Eq. 1, which
    is the gain divided by the standard deviation of the layer's output.
    """
    require("torch", "train")
    from delugeserve.plotting import check_picture_path, save_figure
    from delugeserve.studies.connectivity import draw_connectivity, measure_connectivity

    pictures = [path for path in (plot, *(output or ())) if path is not None]
    for path in pictures:
        check_picture_path(path)
    if csv is not None:
        check_output_file(csv)
    loaded = _load(subject, checkpoint, model)
    blocks = measure_connectivity(loaded)
    if pictures:
        figure = draw_connectivity(blocks, loaded.spec.name)
        for path in pictures:
            save_figure(figure, path)
    if csv is not None:
        write_csv(csv, _COLUMNS, _rows(blocks))
    if json:
        described = [
            asdict(block) | {"relative": block.relative, "raw_relative": block.raw_relative}
            for block in blocks
        ]
        print_json({"model": loaded.spec.name, "blocks": described})
    else:
        _print_table(blocks)
    for path in [*pictures, *([csv] if csv else [])]:
        err_console.print(f"written to {path}", markup=False)


def _load(subject: str | None, checkpoint: str | None, model: str | None) -> Checkpoint:
    from delugeserve.networks.checkpoint import load_checkpoint

    if subject and checkpoint:
        raise UsageError(
            "Only one network can be shown at a time.",
            "Give one model name, checkpoint or run folder.",
        )
    spec = find_model(model) if model else None
    path = resolve_checkpoint(subject or checkpoint or model or "delugenet38")
    return load_checkpoint(path, spec)


def _rows(
    blocks: Sequence[BlockConnectivity],
) -> list[tuple[int, str, int, float, float, float, float]]:
    return [
        (block.block, block.reader, *figures)
        for block in blocks
        for figures in zip(
            block.layers,
            block.relative,
            block.norms,
            block.raw_relative,
            block.raw_norms,
            strict=True,
        )
    ]


def _print_table(blocks: Sequence[BlockConnectivity]) -> None:
    print_table(
        ("block", "read by", "layer", "BatchNorm gain", "weight in Eq. 1"),
        (
            (
                str(block),
                reader,
                str(layer) if layer else "input",
                _bar(gain),
                _bar(raw),
            )
            for block, reader, layer, gain, _, raw, _ in _rows(blocks)
        ),
        texts=5,
    )


def _bar(relative: float) -> str:
    return f"{'━' * round(relative * _BAR_WIDTH):<{_BAR_WIDTH}} {relative:.2f}"
