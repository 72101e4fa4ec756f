"""``delugeserve export``: checkpoint to a proven, published model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from delugeserve.cli.console import out, print_json, print_next, print_table, talk
from delugeserve.cli.verification import check_report_path, print_verification, write_report
from delugeserve.errors import RejectedError, UsageError, require
from delugeserve.zoo import find_model

if TYPE_CHECKING:
    from delugeserve_export.manifest import Manifest
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
    sum_form: Annotated[
        str, typer.Option(help="Form of weighted sums: mul, batchnorm, conv or auto.")
    ] = "auto",
    data: Annotated[
        str | None, typer.Option(help="Data set to verify on. Default: photographs.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of an untrained network.")] = 0,
    report: Annotated[
        Path | None, typer.Option(help="Write a page with plots to this HTML file.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """Export a model, prove the artefact, publish it for Triton."""
    if model is None and checkpoint is None:
        raise UsageError("There is nothing to export.", "Say --model or --checkpoint.")
    spec = find_model(model) if model else None
    for module in ("torch", "onnx"):
        require(module, "export")
    from delugeserve_export.pipeline import Progress, Request, export

    check_report_path(report)
    request = Request(
        spec, checkpoint, repository, backend, precision, max_batch_size, sum_form, data, seed
    )
    with talk.status("starting") as status:
        try:
            done = export(request, Progress(lambda name: status.update(f"{name} ...")))
        except RejectedError as error:
            status.stop()
            print_verification(error.manifest)
            write_report(error.manifest, report)
            raise
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
    write_report(done.manifest, report)
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
    _print_sum_forms(manifest)
    print_verification(manifest)
    _print_speed(manifest)
    size = f"{manifest.artefact_bytes / 1e6:.1f} MB"
    out.print(
        f"{done.folder}: {manifest.artefact}, {size}, {manifest.precision}",
        highlight=False,
        soft_wrap=True,
    )


def _print_speed(manifest: Manifest) -> None:
    """Print the artefact's speed, and the same backend's in fp32 where that is something else."""
    if not manifest.speed:
        return
    sizes = list(next(iter(manifest.speed.values())))
    print_table(
        ("", *(f"ms, batch {size}" for size in sizes), "images/s"),
        (
            (
                name,
                *(f"{by_size[size]:.3g}" for size in sizes),
                f"{1000 * int(sizes[-1]) / by_size[sizes[-1]]:,.0f}",
            )
            for name, by_size in manifest.speed.items()
        ),
        title="speed on this machine",
    )


def _print_sum_forms(manifest: Manifest) -> None:
    """Say which form of weighted sums was taken, and of what, if that was measured."""
    figures = manifest.sum_form["milliseconds"]
    if figures:
        listed = ", ".join(f"{form} {ms:.3g}" for form, ms in figures.items())
        talk.print(
            f"weighted sums written as {manifest.sum_form['form']}: ms for a batch of 8: {listed}",
            highlight=False,
        )
