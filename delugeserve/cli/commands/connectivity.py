"""``delugeserve connectivity``: how strongly a trained network draws on its earlier layers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delugeserve.cli.render.console import err_console, print_json, print_table
from delugeserve.errors import require
from delugeserve.zoo import find_model

if TYPE_CHECKING:
    from delugeserve.networks.checkpoint import Checkpoint
    from delugeserve.studies.connectivity import BlockConnectivity

_BAR_WIDTH = 24


def command(
    checkpoint: Annotated[Path | None, typer.Option(help="The trained network.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Name of the model; alone, its shipped weights.", show_default="delugenet38"
        ),
    ] = None,
    output: Annotated[
        list[Path] | None, typer.Option(help="Draw to this PNG or SVG file; may be repeated.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the norms of the cross-layer weights at the end of each block."""
    require("torch", "train")
    from delugeserve.plotting import check_picture_path, save_figure
    from delugeserve.studies.connectivity import draw_connectivity, measure_connectivity

    for path in output or ():
        check_picture_path(path)
    loaded = _load(checkpoint, model)
    blocks = measure_connectivity(loaded)
    if output:
        figure = draw_connectivity(blocks, f"{loaded.spec.name}: cross-layer connectivity")
        for path in output:
            save_figure(figure, path)
    if json:
        described = [asdict(block) | {"relative": block.relative} for block in blocks]
        print_json({"model": loaded.spec.name, "blocks": described})
    else:
        _print_table(blocks)
    for path in output or ():
        err_console.print(f"drawn to {path}", markup=False, soft_wrap=True)


def _load(path: Path | None, model: str | None) -> Checkpoint:
    from delugeserve.artifacts.checkpoints import shipped_weights
    from delugeserve.networks.checkpoint import load_checkpoint

    if path is not None:
        return load_checkpoint(path, find_model(model) if model else None)
    spec = find_model(model or "delugenet38")
    return load_checkpoint(shipped_weights(spec), spec)


def _print_table(blocks: Iterable[BlockConnectivity]) -> None:
    print_table(
        ("block", "read by", "layer", "relative", "norm"),
        (
            (
                str(block.block),
                block.reader,
                str(layer) if layer else "entry",
                f"{'━' * round(relative * _BAR_WIDTH):<{_BAR_WIDTH}} {relative:.2f}",
                f"{norm:.3f}",
            )
            for block in blocks
            for layer, relative, norm in zip(block.layers, block.relative, block.norms, strict=True)
        ),
        texts=4,
    )
