"""``delugeserve export``: checkpoint to a proven, published model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delugeserve.cli.render.console import err_console, print_json, print_next
from delugeserve.cli.render.export_report import describe_settled, print_report, print_settled, warn
from delugeserve.cli.render.verification import check_report_path, print_verification, write_report
from delugeserve.errors import RejectedError, UsageError, require
from delugeserve.zoo import find_model

if TYPE_CHECKING:
    pass

_PLANS = "TensorRT"


def command(
    model: Annotated[str | None, typer.Option(help="Name of the model; see 'models'.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Its weights. Default: the shipped ones.")
    ] = None,
    repository: Annotated[Path, typer.Option(help="Triton model repository.")] = Path(
        "model_repository"
    ),
    version: Annotated[
        int | None, typer.Option(help="Number of the version.", show_default="the next")
    ] = None,
    backend: Annotated[
        str, typer.Option(help="onnxruntime, openvino, tensorrt, tensorrt-rtx or auto.")
    ] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, fp16, bf16, int8 or auto.")] = "auto",
    max_batch_size: Annotated[int, typer.Option(help="Most images of one batch.")] = 64,
    sum_form: Annotated[
        str, typer.Option(help="Form of weighted sums: mul, batchnorm, conv, horner or auto.")
    ] = "auto",
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set to verify on. Default: DELUGESERVE_DATA for CIFAR-10, or photographs."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of an untrained network.")] = 0,
    calibration_data: Annotated[
        str | None,
        typer.Option(help="int8: data set whose training split calibrates. Default: --data."),
    ] = None,
    calibration_images: Annotated[
        int, typer.Option(help="int8: most images to calibrate on.")
    ] = 512,
    calibration_method: Annotated[
        str, typer.Option(help="int8: entropy, minmax or percentile.")
    ] = "entropy",
    max_drop: Annotated[float, typer.Option(help="int8: points of top-1 that it may cost.")] = 0.5,
    optimal_batch_size: Annotated[
        int | None,
        typer.Option(help="Batch to tune for. Default: 16.", rich_help_panel=_PLANS),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page with plots to this HTML file.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """Export a model, prove the artefact, publish it for Triton."""
    if model is None and checkpoint is None:
        raise UsageError("There is nothing to export.", "Say --model or --checkpoint.")
    spec = find_model(model) if model else None
    for module in ("torch", "onnx"):
        require(module, "export")
    from delugeserve.runtimes.base import BuildOptions
    from delugeserve_export.int8 import Int8Options
    from delugeserve_export.pipeline import Progress, export
    from delugeserve_export.request import Request, settle

    check_report_path(report)
    options = BuildOptions(optimal_batch_size=optimal_batch_size)
    request = Request(
        spec,
        checkpoint,
        repository,
        backend,
        precision,
        max_batch_size,
        sum_form,
        data,
        seed,
        options,
        Int8Options(calibration_data, calibration_images, calibration_method, max_drop),
        version,
    )
    if dry_run:
        settled = settle(request)
        if json:
            print_json(describe_settled(settled))
        else:
            print_settled(settled)
        return
    with err_console.status("starting") as status:
        try:
            done = export(request, Progress(lambda name: status.update(f"{name} ...")))
        except RejectedError as error:
            status.stop()
            if json:
                print_json(error.manifest.to_json())
            else:
                print_verification(error.manifest)
            write_report(error.manifest, report)
            raise
    warn(done.manifest)
    if json:
        print_json(done.manifest.to_json() | {"folder": str(done.folder)})
    else:
        print_report(done)
    write_report(done.manifest, report)
    passed = done.manifest.verification.status == "passed"
    where = "" if passed else "  # on a machine that can run it"
    print_next(f"delugeserve serve --repository {repository}{where}")
