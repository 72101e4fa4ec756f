"""``delugeserve evaluate``: how well a checkpoint, an exported version or an endpoint does."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress
from rich.text import Text

from delugeserve.artifacts.references import Reference, recognise
from delugeserve.cli.render.console import err_console, out, print_json, print_table
from delugeserve.data.unreadable import OnUnreadable
from delugeserve.errors import UsageError, require
from delugeserve.evaluation.subjects import open_subject
from delugeserve.zoo import find_model

if TYPE_CHECKING:
    from delugeserve.evaluation.evaluate import ClassReport, Report

_CLASSES_SHOWN = 10


def command(
    data: Annotated[
        str,
        typer.Option(envvar="DELUGESERVE_DATA", help="Data set with a test split; see 'train'."),
    ],
    subject: Annotated[
        str | None,
        typer.Argument(
            help="A checkpoint, an ONNX file, the folder of a version or of a model, a server's "
            "address, or a model's name for its shipped weights.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Name of the model; a server's address needs it.")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Evaluate this checkpoint.")] = None,
    version: Annotated[
        Path | None, typer.Option(help="Evaluate this folder of an exported version.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Evaluate --model as the server at this address answers.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first images only.")] = None,
    on_unreadable: Annotated[
        OnUnreadable,
        typer.Option(help="What to do about an image that cannot be read: fail, or skip it."),
    ] = "fail",
    confusion: Annotated[
        Path | None, typer.Option(help="Draw the confusion matrix to this PNG or SVG file.")
    ] = None,
    reliability: Annotated[
        Path | None, typer.Option(help="Draw the reliability diagram to this PNG or SVG file.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print every figure as JSON.")] = False,
) -> None:
    """Measure errors and calibration on a test split."""
    reference = _choose(subject, model, checkpoint, version, url)
    spec = find_model(model) if model else None
    _check_pictures(confusion, reliability)
    from delugeserve.data.datasets import load_images
    from delugeserve.evaluation.evaluate import evaluate_fully

    with (
        open_subject(reference, spec) as opened,
        Progress(
            console=err_console, transient=True, disable=not err_console.is_terminal
        ) as progress,
    ):
        images = load_images(
            data, "test", opened.spec.dataset, limit=limit, on_unreadable=on_unreadable
        )
        if opened.class_names is not None:
            images.require_classes(opened.class_names, opened.title)
        task = progress.add_task("evaluating", total=len(images))
        start = time.perf_counter()
        report = evaluate_fully(
            opened.classify,
            images,
            batch_size=opened.batch_size,
            on_progress=lambda n: progress.advance(task, n),
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
    checkpoint: Path | None,
    version: Path | None,
    url: str | None,
) -> Reference:
    """The one thing that is asked for; ``--model`` alone asks for its shipped weights."""
    given = [
        recognise(subject) if subject is not None else None,
        Reference("checkpoint", str(checkpoint)) if checkpoint is not None else None,
        Reference("version", str(version)) if version is not None else None,
        Reference("endpoint", url) if url is not None else None,
    ]
    chosen = [reference for reference in given if reference is not None]
    if len(chosen) > 1:
        raise UsageError(
            "Only one thing is evaluated at a time.",
            "Give one path, address or name, or one of --checkpoint, --version and --url.",
        )
    if not chosen and model is None:
        raise UsageError(
            "There is nothing to evaluate.",
            "Give a checkpoint, an ONNX file, a version's folder, an address or a model's name.",
        )
    return chosen[0] if chosen else Reference("weights", str(model))


def _check_pictures(*paths: Path | None) -> None:
    """Let whatever is wrong with the pictures be wrong before the work, not after it."""
    from delugeserve.plotting import check_picture_path

    for path in paths:
        if path is not None:
            check_picture_path(path)
            require("matplotlib.figure", "train")


def _print_report(report: Report, title: str, images_per_s: float) -> None:
    low, high = report.top1_interval
    top5 = "" if report.top5_error is None else f" top-5 error {report.top5_error:.2f} %,"
    out.print(
        f"{title}: top-1 error {report.top1_error:.2f} % (95 % interval {low:.2f} to {high:.2f}),"
        f"{top5}"
        f" calibration error {report.calibration_error:.2f} %,"
        f" negative log-likelihood {report.negative_log_likelihood:.3f}"
        f" on {report.num_images:,} test images; {images_per_s:,.0f} images/s",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    seen = [one for one in report.classes if one.error is not None]
    worst = sorted(seen, key=lambda one: one.error or 0, reverse=True)[:_CLASSES_SHOWN]
    print_table(
        ("class", "most often taken for", "images", "error %"),
        (
            (Text(one.name), Text(_mistake(one)), str(one.num_images), f"{one.error:.2f}")
            for one in worst
        ),
        texts=2,
    )
    if len(worst) < len(seen):
        err_console.print(
            f"the worst {len(worst)} of {len(seen)} classes; --json gives all of them"
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
            err_console.print(f"{what} drawn to {path}", soft_wrap=True, markup=False)
