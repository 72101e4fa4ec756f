"""``delugeserve evaluate``: top-1 and top-5 error of a checkpoint, a version or an endpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from delugeserve.cli.console import out, print_json, talk
from delugeserve.cli.subjects import open_subject
from delugeserve.errors import require


def command(
    data: Annotated[
        str,
        typer.Option(envvar="DELUGESERVE_DATA", help="Data set with a test split; see 'train'."),
    ],
    model: Annotated[
        str | None, typer.Option(help="Name of the model; alone, its shipped weights.")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Evaluate a checkpoint.")] = None,
    version: Annotated[
        Path | None, typer.Option(help="Evaluate an exported version's folder.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Evaluate --model as a running server answers.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first images only.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure top-1 and top-5 error on a test split."""
    require("torch", "train")
    from delugeserve.data.datasets import load_images
    from delugeserve.evaluation import evaluate

    with (
        open_subject(model, checkpoint, version, url) as subject,
        Progress(console=talk, transient=True) as progress,
    ):
        images = load_images(data, "test", subject.spec.dataset, limit=limit)
        task = progress.add_task("evaluating", total=len(images.labels))
        result = evaluate(subject.classify, images, on_progress=lambda n: progress.advance(task, n))
    if json:
        print_json(
            {"subject": subject.title, "model": subject.spec.name, **dataclasses.asdict(result)}
        )
    else:
        out.print(
            f"{subject.title}: top-1 error {result.top1_error:.2f} %, top-5 error "
            f"{result.top5_error:.2f} % on {result.num_images:,} test images",
            soft_wrap=True,
        )
