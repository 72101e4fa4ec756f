"""``delugeserve evaluate``: measure a checkpoint, an exported version or an endpoint."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.text import Text

from delugeserve.artifacts.references import Reference, recognise, resolve_version
from delugeserve.cli.options import Json, complete_models, with_default
from delugeserve.cli.render.console import err_console, out, print_facts, print_json, print_table
from delugeserve.cli.render.figures import percent
from delugeserve.cli.render.progress import show_progress
from delugeserve.data.options import VAL_FRACTION
from delugeserve.data.unreadable import OnUnreadable
from delugeserve.errors import UsageError
from delugeserve.evaluation.subjects import open_subject
from delugeserve.evaluation.tta import Tta

if TYPE_CHECKING:
    from delugeserve.evaluation.evaluate import ClassReport, Report

_CLASSES_SHOWN = 10
_GALLERY_IMAGES = 100


def command(
    data: Annotated[
        str,
        typer.Option(
            "--data",
            envvar="DELUGESERVE_DATA",
            help="Images to evaluate on: a folder or file as for 'train', or the name of a "
            "public data set.",
        ),
    ],
    subject: Annotated[
        str | None,
        typer.Argument(
            help="What to evaluate: a model name (its pretrained weights), a checkpoint, a run "
            "folder, an ONNX file, an exported version (its folder or its model's), or the address "
            "of a server such as localhost:8001.",
            show_default=False,
            autocompletion=complete_models,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Model to evaluate on a server that serves several, or in an ONNX file that does "
            "not name its model.",
            autocompletion=complete_models,
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", hidden=True, autocompletion=complete_models),
    ] = None,
    version: Annotated[str | None, typer.Option("--version", hidden=True)] = None,
    url: Annotated[str | None, typer.Option("--url", hidden=True)] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="Use the first N images only.")
    ] = None,
    on_unreadable: Annotated[
        OnUnreadable,
        typer.Option(
            "--on-unreadable", help="Stop at an image that cannot be decoded, or skip it."
        ),
    ] = "fail",
    val_fraction: Annotated[
        float | None,
        typer.Option(
            "--val-fraction",
            min=0.01,
            max=0.5,
            help=with_default(
                "Part of the images that its training held out, for data without splits.",
                f"that of the training, if it is known, otherwise {VAL_FRACTION}",
            ),
        ),
    ] = None,
    confusion: Annotated[
        Path | None,
        typer.Option(
            "--confusion", metavar="FILE", help="Save the confusion matrix to this PNG or SVG file."
        ),
    ] = None,
    reliability: Annotated[
        Path | None,
        typer.Option(
            "--reliability",
            metavar="FILE",
            help="Save the reliability diagram to this PNG or SVG file.",
        ),
    ] = None,
    gallery: Annotated[
        Path | None,
        typer.Option(
            "--gallery",
            metavar="FILE",
            help="Save the most confident mistakes as pictures, by class pair, to this HTML file.",
        ),
    ] = None,
    gallery_images: Annotated[
        int | None,
        typer.Option(
            "--gallery-images",
            min=1,
            metavar="N",
            help=with_default("Most pictures in the --gallery.", "100"),
        ),
    ] = None,
    tta: Annotated[
        Tta | None,
        typer.Option(
            "--tta",
            help="Measure the errors with test-time augmentation too: 'flip' takes the mean of an "
            "image and its mirror image, in twice the time.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Measure top-1 and top-5 error, calibration and the errors of each class on a test split.

    Examples of SUBJECT: delugenet38, runs/first, model_repository/delugenet38/1, localhost:8001.
    """
    reference = _choose(subject, model, checkpoint, version, url)
    from delugeserve.data.datasets import load_images
    from delugeserve.evaluation.evaluate import predict, summarise
    from delugeserve.evaluation.gallery import check_gallery_path, write_gallery
    from delugeserve.plotting import check_picture_path

    for path in (confusion, reliability):
        if path is not None:
            check_picture_path(path)
    if gallery is not None:
        check_gallery_path(gallery)
    elif gallery_images is not None:
        raise UsageError(
            "--gallery-images is of the --gallery, which is not given.",
            "Use --gallery FILE too, or leave --gallery-images out.",
        )
    with open_subject(reference, model) as opened, show_progress() as progress:
        images = load_images(
            data,
            "test",
            opened.task,
            limit=limit,
            on_unreadable=on_unreadable,
            val_fraction=val_fraction or opened.val_fraction or VAL_FRACTION,
            progress=progress,
        )
        images.require_classes(opened.task.class_names, opened.title)
        start = time.perf_counter()
        predictions, augmented = predict(
            opened.classify, images, batch_size=opened.batch_size, tta=tta, progress=progress
        )
        images_per_s = len(images) / (time.perf_counter() - start)
    report = summarise(predictions, images.class_names, augmented, tta)
    if json:
        print_json(
            {
                "subject": opened.title,
                "model": opened.model,
                "part": images.part,
                "test_fingerprint": images.fingerprint,
                **dataclasses.asdict(report),
                "images_per_s": round(images_per_s, 1),
            }
        )
    else:
        _print_report(report, opened.title, images_per_s, images.part)
    _draw(report, opened.title, confusion, reliability)
    if gallery is not None:
        shown = write_gallery(
            gallery, predictions, images, opened.title, gallery_images or _GALLERY_IMAGES
        )
        err_console.print(f"gallery of {shown} mistakes written to {gallery}", markup=False)


def _choose(
    subject: str | None,
    model: str | None,
    checkpoint: str | None,
    version: str | None,
    url: str | None,
) -> Reference:
    """Return the one subject that is given: the argument, or one of the hidden options.

    ``--model`` alone stands for its pretrained weights.
    """
    given = (subject, checkpoint, version, url)
    if sum(one is not None for one in given) > 1:
        raise UsageError(
            "Only one subject can be evaluated at a time.",
            "Give one model name, path or server address.",
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
        "Give a model name, path or server address, such as: delugeserve evaluate delugenet38",
    )


def _print_report(report: Report, title: str, images_per_s: float, part: str = "test") -> None:
    low, high = report.top1_interval
    out.print(f"[bold]{escape(title)} on {report.num_images:,} {part} images[/]")
    print_facts(
        {
            "top-1 error": f"{percent(report.top1_error)} (95 % interval {low:.2f} to {high:.2f})",
            "top-5 error": percent(report.top5_error),
            **_augmented(report),
            "calibration error": f"{percent(report.calibration_error)} (ECE)",
            "negative log-likelihood": f"{report.negative_log_likelihood:.3f}",
            "speed": f"{images_per_s:,.0f} images/s",
        }
    )
    out.print()
    tested = [one for one in report.classes if one.error is not None]
    worst = sorted(tested, key=lambda one: one.error or 0, reverse=True)[:_CLASSES_SHOWN]
    print_table(
        ("class", "most confused with", "images", "error %"),
        (
            (Text(one.name), Text(_mistake(one)), f"{one.num_images:,}", f"{one.error:.2f}")
            for one in worst
        ),
        texts=2,
    )
    if len(worst) < len(tested):
        err_console.print(
            f"The {len(worst)} worst of {len(tested)} classes; --json prints all of them."
        )


def _augmented(report: Report) -> dict[str, str]:
    if report.tta is None:
        return {}
    flag = f"--tta {report.tta.augmentation}"
    return {
        f"top-1 error, {flag}": percent(report.tta.top1_error),
        f"top-5 error, {flag}": percent(report.tta.top5_error),
    }


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
            err_console.print(f"{what} written to {path}", markup=False)
