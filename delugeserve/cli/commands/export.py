"""``delugeserve export``: from a checkpoint to a verified, published version."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from delugeserve.artifacts.image_models import Decoder
from delugeserve.artifacts.interface import Precision, SumForm
from delugeserve.artifacts.records import CalibrationMethod
from delugeserve.cli.options import (
    DEFAULT_REPOSITORY,
    Repository,
    Wait,
    complete_models,
    with_default,
)
from delugeserve.cli.render.console import print_json, print_next
from delugeserve.cli.render.export_report import (
    describe_outcome,
    describe_plan,
    print_plan,
    print_report,
    warn,
    warn_untrained,
)
from delugeserve.cli.render.progress import show_progress
from delugeserve.cli.render.verification import check_report_path, print_verification, write_report
from delugeserve.cli.render.versions import print_running, running_servers
from delugeserve.cli.waiting import check_wait, wait_for_servers
from delugeserve.errors import ParityError, UsageError
from delugeserve.system.imports import require

_log = logging.getLogger(__name__)

BackendName = Literal["auto", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]
PrecisionName = Literal["auto", Precision]
SumFormName = Literal["auto", SumForm]


def _listed(choices: Any) -> str:
    return ", ".join(get_args(choices))


_SOURCE = "Model"
_ARTEFACT = "Artefact"
_PROOF = "Verification"
_INT8 = "int8"
_SERVING = "Serving"


def command(
    model: Annotated[
        str | None,
        typer.Option(
            help="Model name; see 'delugeserve models'.",
            autocompletion=complete_models,
            rich_help_panel=_SOURCE,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help=with_default(
                "Checkpoint (.safetensors) or run folder.", "the model's pretrained weights"
            ),
            rich_help_panel=_SOURCE,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            help="Random seed of the weights, for a model without pretrained weights.",
            rich_help_panel=_SOURCE,
        ),
    ] = 0,
    repository: Repository = DEFAULT_REPOSITORY,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=with_default("Name of the model in the repository.", "the network's own name"),
        ),
    ] = None,
    version: Annotated[
        int | None,
        typer.Option(help=with_default("Version number to write.", "highest existing + 1")),
    ] = None,
    replace_classes: Annotated[
        bool,
        typer.Option(
            "--replace-classes", help="Publish over a model of that name with other classes."
        ),
    ] = False,
    backend: Annotated[
        BackendName,
        typer.Option(
            metavar="NAME",
            help=f"Triton backend to export for: {_listed(BackendName)}. auto takes the fastest "
            "one installed for this machine.",
            rich_help_panel=_ARTEFACT,
        ),
    ] = "auto",
    precision: Annotated[
        PrecisionName,
        typer.Option(
            metavar="NAME",
            help=f"Inference precision: {_listed(PrecisionName)}. auto takes the fastest that this "
            "hardware supports natively, except int8.",
            rich_help_panel=_ARTEFACT,
        ),
    ] = "auto",
    max_batch_size: Annotated[
        int, typer.Option(help="Maximum batch size.", rich_help_panel=_ARTEFACT)
    ] = 64,
    sum_form: Annotated[
        SumFormName,
        typer.Option(
            metavar="NAME",
            help="ONNX operators of the cross-layer sums: mul, batchnorm, conv (scale each term "
            "with Mul, BatchNormalization or a depthwise 1x1 Conv, then Add), horner (nested: "
            "reads each term once), or auto (time each here, take the fastest).",
            rich_help_panel=_ARTEFACT,
        ),
    ] = "auto",
    data: Annotated[
        str | None,
        typer.Option(
            help=with_default(
                "Data set whose test split to verify on.",
                "DELUGESERVE_DATA for a CIFAR-10 model, otherwise crops of photographs",
            ),
            rich_help_panel=_PROOF,
        ),
    ] = None,
    keep_evidence: Annotated[
        bool,
        typer.Option(
            "--keep-evidence",
            help="Store the test images of --data in the version, so that 'verify' needs no "
            "data set.",
            rich_help_panel=_PROOF,
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Write a report with plots of the logit errors to this HTML file.",
            rich_help_panel=_PROOF,
        ),
    ] = None,
    calibration_data: Annotated[
        str | None,
        typer.Option(
            help=with_default("Data set for calibration: its training split is used.", "--data"),
            rich_help_panel=_INT8,
        ),
    ] = None,
    calibration_images: Annotated[
        int, typer.Option(help="Maximum number of calibration images.", rich_help_panel=_INT8)
    ] = 512,
    calibration_method: Annotated[
        CalibrationMethod,
        typer.Option(
            metavar="NAME",
            help=f"Calibration method: {_listed(CalibrationMethod)}.",
            rich_help_panel=_INT8,
        ),
    ] = "entropy",
    max_drop: Annotated[
        float,
        typer.Option(
            help="Maximum drop of top-1 accuracy, in percentage points. Sensitive layers stay in "
            "the higher precision to meet it; if that is not enough, nothing is published.",
            rich_help_panel=_INT8,
        ),
    ] = 0.5,
    optimal_batch_size: Annotated[
        int | None,
        typer.Option(
            help=with_default(
                "TensorRT: batch size to tune for.", "16, or --max-batch-size if that is less"
            ),
            rich_help_panel=_ARTEFACT,
        ),
    ] = None,
    outputs: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Outputs that clients can ask for: probabilities, or logits,probabilities. "
            "Triton's own image clients refuse a model with two.",
            rich_help_panel=_SERVING,
        ),
    ] = "probabilities",
    image_model: Annotated[
        bool,
        typer.Option(
            "--image-model/--no-image-model",
            help="Publish NAME_image too, which takes encoded images, such as JPEG.",
            rich_help_panel=_SERVING,
        ),
    ] = True,
    decoder: Annotated[
        Decoder,
        typer.Option(
            metavar="NAME",
            help="Decoder of NAME_image: python (Pillow, on the CPU) or dali (on an NVIDIA GPU, in "
            "NVIDIA's Triton container).",
            rich_help_panel=_SERVING,
        ),
    ] = "python",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the options and print what would be done.")
    ] = False,
    wait: Wait = False,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print the manifest, or the dry run, as JSON."),
    ] = False,
) -> None:
    """Export a model to ONNX, OpenVINO or TensorRT for Triton.

    Builds the artefact, verifies it against PyTorch, and adds it to a model repository as a new
    version. If a check fails, nothing is added and the exit status is 1.
    """
    if model is None and checkpoint is None:
        raise UsageError("No model is given.", "Use --model or --checkpoint.")
    for module in ("torch", "onnx"):
        require(module, "export")
    from delugeserve_export import Int8Options, export, plan_export

    check_report_path(report)
    check_wait(repository, wait=wait, dry_run=dry_run)
    int8 = Int8Options(calibration_data, calibration_images, calibration_method, max_drop)
    plan = plan_export(
        model,
        checkpoint,
        repository=repository,
        name=name,
        version=version,
        replace_classes=replace_classes,
        backend=backend,
        precision=precision,
        max_batch_size=max_batch_size,
        optimal_batch_size=optimal_batch_size,
        sum_form=sum_form,
        data=data,
        keep_evidence=keep_evidence,
        seed=seed,
        int8=int8 if int8 != Int8Options() else None,
        outputs=[name.strip() for name in outputs.split(",")],
        image_model=image_model,
        decoder=decoder,
    )
    if dry_run:
        if json:
            print_json(describe_plan(plan))
        else:
            print_plan(plan)
        return
    warn_untrained(plan)
    if data is None and plan.data is not None:
        _log.info("Verifying on the test split of %s (DELUGESERVE_DATA).", plan.data)
    with show_progress() as progress:
        outcome = export(plan, progress)
    manifest = outcome.manifest
    warn(manifest)
    if json:
        print_json(describe_outcome(outcome))
    elif outcome.published:
        print_report(plan, outcome)
    else:
        print_verification(manifest)
    write_report(manifest, report)
    if not outcome.published:
        raise ParityError(outcome.problem, outcome.remedy)
    passed = manifest.verification.status == "passed"
    if wait:
        wait_for_servers(repository)
        return
    if running_servers(repository):
        print_running(repository, changed=True)
        return
    where = "" if passed else "  # on a machine that can run it"
    print_next(f"delugeserve serve --repository {shlex.quote(str(repository))}{where}")
