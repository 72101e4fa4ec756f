"""``delugeserve models``: the registry."""

from __future__ import annotations

from typing import Any

from delugeserve.artifacts.checkpoints import read_header
from delugeserve.cli.options import Json
from delugeserve.cli.render.console import err_console, print_json, print_next, print_table
from delugeserve.networks.flops import count
from delugeserve.zoo import MODELS, ModelSpec


def command(json: Json = False) -> None:
    """List the models: size, cost, test errors, and which have pretrained weights."""
    rows = [_describe(spec) for spec in MODELS.values()]
    if json:
        print_json(rows)
        return
    # Fits a terminal of 80 columns.
    print_table(
        ("model", "data set", "depth", "params", "GFLOPs", "paper %", "ours %"),
        (
            (
                row["name"],
                row["task"],
                str(row["depth"]),
                f"{row['params'] / 1e6:.2f}M",
                f"{row['gflops']:.2f}",
                _error(row["published"]),
                f"{row['measured']['top1_error']:.2f}" if row["measured"] else "-",
            )
            for row in rows
        ),
        texts=2,
    )
    err_console.print(
        "Test errors, top-1 or top-1/top-5: the paper's, and ours with the pretrained weights."
    )
    err_console.print("Models without a figure of ours have no pretrained weights: train them.")
    trained = next(spec.name for spec in MODELS.values() if spec.weights)
    print_next(f"delugeserve export --model {trained}")


def _error(published: dict[str, float] | None) -> str:
    if published is None:
        return "-"
    top1, top5 = published["top1_error"], published["top5_error"]
    return f"{top1:.2f}/{top5:.2f}" if top5 else f"{top1:.2f}"


def _describe(spec: ModelSpec) -> dict[str, Any]:
    complexity = count(spec)
    paper = spec.published
    return {
        "name": spec.name,
        "task": spec.task.title,
        "architecture": spec.architecture.name,
        "image_size": spec.task.image_size,
        "depth": spec.architecture.depth,
        "params": complexity.params,
        "gflops": complexity.flops / 1e9,
        "paper_count_gflops": complexity.paper_flops / 1e9,
        "published": paper
        and {
            "params_m": paper.params_m,
            "gflops": paper.gflops,
            "top1_error": paper.top1_error,
            "top5_error": paper.top5_error,
        },
        "measured": dict(read_header(spec.weights).metrics) if spec.weights else None,
        "weights": str(spec.weights) if spec.weights else None,
    }
