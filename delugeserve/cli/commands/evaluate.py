"""``delugeserve evaluate``: measure a checkpoint, an exported version or an endpoint."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from delugeserve.artifacts.references import Reference, recognise, resolve_version
from delugeserve.cli.options import Json, complete_models
from delugeserve.cli.render.console import err_console, out, print_json, print_table
from delugeserve.cli.render.progress import show_progress
from delugeserve.data.unreadable import OnUnreadable
from delugeserve.errors import UsageError
from delugeserve.evaluation.subjects import open_subject
from delugeserve.zoo import find_model

if TYPE_CHECKING:
    from delugeserve.evaluation.evaluate import ClassReport, Report

_CLASSES_SHOWN = 10


def command(
    data: Annotated[
        str,
        typer.Option(
            "--data",
            envvar="DELUGESERVE_DATA",
            help="Data set with a test split: a folder, a file, or the name of a public one.",
        ),
    ],
    subject: Annotated[
        str | None,
        typer.Argument(
            help="Checkpoint, run folder, ONNX file, exported version or model folder, server "
            "address, or model name for its shipped weights.",
            show_default=False,
            autocompletion=complete_models,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Model name: which of a server's models, or alone its shipped weights.",
            autocompletion=complete_models,
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            help="Evaluate a checkpoint, a run folder or a model's shipped weights.",
            autocompletion=complete_models,
        ),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(
            "--version", help="Evaluate an exported version, or a model in ./model_repository."
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", help="Evaluate a model of the server at this address."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Use the first images only.")
    ] = None,
    on_unreadable: Annotated[
        OnUnreadable,
        typer.Option("--on-unreadable", help="What to do with an image that cannot be decoded."),
    ] = "fail",
    confusion: Annotated[
        Path | None,
        typer.Option("--confusion", help="Draw the confusion matrix to this PNG or SVG file."),
    ] = None,
    reliability: Annotated[
        Path | None,
        typer.Option("--reliability", help="Draw the reliability diagram to this PNG or SVG file."),
    ] = None,
    json: Json = False,
) -> None:
    """Measure errors and calibration on a test split."""
    reference = _choose(subject, model, checkpoint, version, url)
    spec = find_model(model) if model else None
    from delugeserve.data.datasets import load_images
    from delugeserve.evaluation.evaluate import evaluate_fully
    from delugeserve.plotting import check_picture_path

    for path in (confusion, reliability):
        if path is not None:
            check_picture_path(path)
    with open_subject(reference, spec) as opened, show_progress() as progress:
        images = load_images(
            data,
            "test",
            opened.spec.dataset,
            limit=limit,
            on_unreadable=on_unreadable,
            progress=progress,
        )
        if opened.class_names is not None:
            images.require_classes(opened.class_names, opened.title)
        start = time.perf_counter()
        report = evaluate_fully(
            opened.classify, images, batch_size=opened.batch_size, progress=progress
        )
        images_per_s = len(images) / (time.perf_counter() - start)
    if json:
        print_json(
            {
                "subject": opened.title,
                "model": opened.spec.name,
                "test_fingerprint": images.fingerprint,
                **dataclasses.asdict(report),
                "images_per_s": round(images_per_s, 1),
            }
        )
    else:
        _print_report(report, opened.title, images_per_s)
    _draw(report, opened.title, confusion, reliability)


def _choose(
    subject: str | None,
    model: str | None,
    checkpoint: str | None,
    version: str | None,
    url: str | None,
) -> Reference:
    """Return the one subject that is given; ``--model`` alone stands for its shipped weights."""
    given = (subject, checkpoint, version, url)
    if sum(one is not None for one in given) > 1:
        raise UsageError(
            "Only one subject can be evaluated at a time.",
            "Give one path, address or name, or one of --checkpoint, --version and --url.",
        )
    if subject is not None:
        return recognise(subject)
    if checkpoint is not None:
        return recognise(checkpoint, {"weights", "checkpoint"})
    if version is not None:
        return Reference("version", str(resolve_version(version)))
    if url is not None:
        return Reference("endpoint", url)
    if model is not None:
        return Reference("weights", model)
    raise UsageError(
        "There is nothing to evaluate.",
        "Give a checkpoint, run folder, ONNX file, exported version, server address or model name.",
    )


def _print_report(report: Report, title: str, images_per_s: float) -> None:
    low, high = report.top1_interval
    top5 = "" if report.top5_error is None else f" top-5 error {report.top5_error:.2f} %,"
    out.print(
        f"{title}: top-1 error {report.top1_error:.2f} % (95 % interval {low:.2f} to {high:.2f}),"
        f"{top5}"
        f" calibration error {report.calibration_error:.2f} %,"
        f" negative log-likelihood {report.negative_log_likelihood:.3f}"
        f" on {report.num_images:,} test images; {images_per_s:,.0f} images/s",
        markup=False,
    )
    tested = [one for one in report.classes if one.error is not None]
    worst = sorted(tested, key=lambda one: one.error or 0, reverse=True)[:_CLASSES_SHOWN]
    print_table(
        ("class", "most often mistaken for", "images", "error %"),
        (
            (Text(one.name), Text(_mistake(one)), str(one.num_images), f"{one.error:.2f}")
            for one in worst
        ),
        texts=2,
    )
    if len(worst) < len(tested):
        err_console.print(
            f"The {len(worst)} worst of {len(tested)} classes; --json prints all of them."
        )


def _mistake(one: ClassReport) -> str:
    return f"{one.mistaken_for} ({one.mistaken:.1f} %)" if one.mistaken_for else "-"


def _draw(report: Report, title: str, confusion: Path | None, reliability: Path | None) -> None:
    from delugeserve.evaluation.plots import draw_confusion, draw_reliability
    from delugeserve.plotting import save_figure

    for path, draw, what in (
        (confusion, draw_confusion, "confusion matrix"),
        (reliability, draw_reliability, "reliability diagram"),
    ):
        if path is not None:
            save_figure(draw(report, title), path)
            err_console.print(f"{what}: {path}", markup=False)
