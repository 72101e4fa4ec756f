"""``delugeserve export``: checkpoint to a proven, published model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from delugeserve.cli.console import out, print_json, print_next, print_table, talk
from delugeserve.errors import UsageError, require
from delugeserve.zoo import find_model

if TYPE_CHECKING:
    from delugeserve_export.pipeline import Export


def command(
    model: Annotated[str | None, typer.Option(help="Name of the model; see 'models'.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Its weights. Default: the shipped ones.")
    ] = None,
    repository: Annotated[Path, typer.Option(help="Triton model repository.")] = Path(
        "model_repository"
    ),
    backend: Annotated[str, typer.Option(help="onnxruntime, openvino or auto.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or auto.")] = "auto",
    max_batch_size: Annotated[int, typer.Option(help="Most images of one batch.")] = 64,
    data: Annotated[
        str | None, typer.Option(help="Data set to verify on. Default: photographs.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of an untrained network.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """Export a model, prove the artefact, publish it for Triton."""
    if model is None and checkpoint is None:
        raise UsageError("There is nothing to export.", "Say --model or --checkpoint.")
    spec = find_model(model) if model else None
    for module in ("torch", "onnx"):
        require(module, "export")
    from delugeserve_export.pipeline import Progress, Request, export

    request = Request(spec, checkpoint, repository, backend, precision, max_batch_size, data, seed)
    with talk.status("starting") as status:
        done = export(request, Progress(lambda name: status.update(f"{name} ...")))
    if not done.manifest.trained:
        talk.print(
            "[bold yellow]warning:[/] there are no trained weights of "
            f"'{done.manifest.model}' here, so an UNTRAINED network was exported. Its speed is "
            "right, its answers mean nothing.",
            soft_wrap=True,
        )
    if json:
        print_json(dataclasses.asdict(done.manifest) | {"folder": str(done.folder)})
    else:
        _print_report(done)
    print_next(f"delugeserve serve --repository {repository}")


def _print_report(done: Export) -> None:
    manifest = done.manifest
    talk.print(escape(done.reason), soft_wrap=True)
    total = sum(done.seconds.values())
    print_table(
        ("stage", "seconds"),
        [(stage, f"{seconds:.2f}") for stage, seconds in done.seconds.items()]
        + [("[bold]total[/]", f"[bold]{total:.2f}[/]")],
    )
    print_table(
        ("precision", "batch", "largest logit error", "relative error", "same top-1"),
        (
            (
                row["precision"],
                str(row["batch_size"]),
                f"{row['max_error']:.2g}",
                f"{row['relative_error']:.2g}",
                f"{row['agreement']:.1%}",
            )
            for row in manifest.parity
        ),
        title=f"parity with the network on {manifest.verified_on}",
    )
    size = sum(file["bytes"] for file in manifest.files.values())
    out.print(
        f"{done.folder}: {', '.join(manifest.files)}, {size / 1e6:.1f} MB, {manifest.precision}",
        highlight=False,
        soft_wrap=True,
    )
