"""``delugeserve export``: from a checkpoint to a verified, published version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from delugeserve.artifacts.interface import Precision, SumForm
from delugeserve.artifacts.records import CalibrationMethod
from delugeserve.cli.options import DEFAULT_REPOSITORY, Repository
from delugeserve.cli.render.console import print_json, print_next
from delugeserve.cli.render.export_report import describe_plan, print_plan, print_report, warn
from delugeserve.cli.render.progress import show_progress
from delugeserve.cli.render.verification import check_report_path, print_verification, write_report
from delugeserve.errors import ParityError, UsageError
from delugeserve.system.imports import require
from delugeserve.zoo import MODELS

BackendName = Literal["auto", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]
PrecisionName = Literal["auto", Precision]
SumFormName = Literal["auto", SumForm]


def _listed(choices: Any) -> str:
    return ", ".join(get_args(choices))


_SOURCE = "Model"
_ARTEFACT = "Artefact"
_PROOF = "Verification"
_INT8 = "int8"


def command(
    model: Annotated[
        str | None,
        typer.Option(
            help="Name of the model (see 'delugeserve models'), or a checkpoint.",
            autocompletion=lambda: sorted(MODELS),
            rich_help_panel=_SOURCE,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="A .safetensors file, or a run folder that holds one.",
            show_default="the weights that ship with the model",
            rich_help_panel=_SOURCE,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(help="Seed of a model without trained weights.", rich_help_panel=_SOURCE),
    ] = 0,
    repository: Repository = DEFAULT_REPOSITORY,
    version: Annotated[
        int | None, typer.Option(help="Number of the version.", show_default="the next")
    ] = None,
    backend: Annotated[
        BackendName,
        typer.Option(
            metavar="NAME",
            help=f"Runtime to export for: {_listed(BackendName)}.",
            rich_help_panel=_ARTEFACT,
        ),
    ] = "auto",
    precision: Annotated[
        PrecisionName,
        typer.Option(
            metavar="NAME",
            help=f"What it computes in: {_listed(PrecisionName)}. auto is the fastest that is "
            "native here, int8 left out.",
            rich_help_panel=_ARTEFACT,
        ),
    ] = "auto",
    max_batch_size: Annotated[
        int, typer.Option(help="Most images in one batch.", rich_help_panel=_ARTEFACT)
    ] = 64,
    sum_form: Annotated[
        SumFormName,
        typer.Option(
            metavar="NAME",
            help=f"How weighted sums are written: {_listed(SumFormName)}. auto times each.",
            rich_help_panel=_ARTEFACT,
        ),
    ] = "auto",
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set to verify on.",
            show_default="DELUGESERVE_DATA for CIFAR-10, else photographs",
            rich_help_panel=_PROOF,
        ),
    ] = None,
    keep_evidence: Annotated[
        bool,
        typer.Option(
            "--keep-evidence",
            help="Publish the test images of --data with the version, not just their SHA-256.",
            rich_help_panel=_PROOF,
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="Write a report with plots to this HTML file.", rich_help_panel=_PROOF),
    ] = None,
    calibration_data: Annotated[
        str | None,
        typer.Option(
            help="Data set whose training split calibrates.",
            show_default="--data",
            rich_help_panel=_INT8,
        ),
    ] = None,
    calibration_images: Annotated[
        int, typer.Option(help="Most images to calibrate on.", rich_help_panel=_INT8)
    ] = 512,
    calibration_method: Annotated[
        CalibrationMethod,
        typer.Option(
            metavar="NAME",
            help=f"How thresholds are chosen: {_listed(CalibrationMethod)}.",
            rich_help_panel=_INT8,
        ),
    ] = "entropy",
    max_drop: Annotated[
        float,
        typer.Option(help="Percentage points of top-1 that int8 may cost.", rich_help_panel=_INT8),
    ] = 0.5,
    optimal_batch_size: Annotated[
        int | None,
        typer.Option(
            help="TensorRT: batch size to tune for.",
            show_default="16, or --max-batch-size if that is less",
            rich_help_panel=_ARTEFACT,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the options, print the plan, and stop.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the manifest, or with --dry-run the plan.")
    ] = False,
) -> None:
    """Export a model: build it for a runtime, verify it, publish it for Triton."""
    if model is None and checkpoint is None:
        raise UsageError("No model is given.", "Use --model or --checkpoint.")
    for module in ("torch", "onnx"):
        require(module, "export")
    from delugeserve_export import Int8Options, export, plan_export

    check_report_path(report)
    int8 = Int8Options(calibration_data, calibration_images, calibration_method, max_drop)
    plan = plan_export(
        model,
        checkpoint,
        repository=repository,
        version=version,
        backend=backend,
        precision=precision,
        max_batch_size=max_batch_size,
        optimal_batch_size=optimal_batch_size,
        sum_form=sum_form,
        data=data,
        keep_evidence=keep_evidence,
        seed=seed,
        int8=int8 if int8 != Int8Options() else None,
    )
    if dry_run:
        if json:
            print_json(describe_plan(plan))
        else:
            print_plan(plan)
        return
    with show_progress() as progress:
        outcome = export(plan, progress)
    manifest = outcome.manifest
    warn(manifest)
    if json:
        folder = {"folder": str(outcome.folder)} if outcome.published else {}
        print_json(manifest.to_json() | folder)
    elif outcome.published:
        print_report(plan, outcome)
    else:
        print_verification(manifest)
    write_report(manifest, report)
    if not outcome.published:
        raise ParityError(outcome.problem, outcome.remedy)
    passed = manifest.verification.status == "passed"
    where = "" if passed else "  # on a machine that can run it"
    print_next(f"delugeserve serve --repository {repository}{where}")
