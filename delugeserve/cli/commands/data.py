"""``delugeserve data``: what is in a source of images."""

from __future__ import annotations

import dataclasses
import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delugeserve.cli.options import Json
from delugeserve.cli.render.console import print_json, print_next
from delugeserve.cli.render.progress import show_progress
from delugeserve.data.options import VAL_FRACTION

if TYPE_CHECKING:
    from delugeserve.data.report import DataReport

_PHOTOGRAPH = 128
"""Shorter side in pixels from which the ImageNet stem is suggested, and the size to train at."""


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            envvar="DELUGESERVE_DATA",
            help="Class folders, a CSV file, parquet files, WebDataset archives, a CIFAR archive, "
            "or the name of a data set on the Hugging Face Hub (owner/name).",
            show_default=False,
        ),
    ],
    val_fraction: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=0.5,
            help="Part of the training images that serves as validation split if there is none; "
            "0 for no validation split.",
        ),
    ] = VAL_FRACTION,
    no_duplicates: Annotated[
        bool, typer.Option("--no-duplicates", help="Do not look for identical image files.")
    ] = False,
    json: Json = False,
) -> None:
    """Show the classes, splits, sizes and faults of a data set, without training."""
    from delugeserve.cli.render.data_report import print_data_report
    from delugeserve.data.catalogue import open_source
    from delugeserve.data.report import survey

    with show_progress() as progress:
        catalogue = open_source(source, val_fraction=val_fraction, progress=progress)
        report = survey(catalogue, duplicates=not no_duplicates, progress=progress)
    if json:
        print_json(_plain(report))
        return
    print_data_report(report)
    if "train" in report.counts and len(report.class_names) > 1:
        network = "--model delugenet38"
        if report.sizes and min(report.sizes.smallest) >= _PHOTOGRAPH:
            network = f"--model delugenet32 --image-size {_PHOTOGRAPH}"
        print_next(f"delugeserve train {network} --data {shlex.quote(source)} --output runs/first")


def _plain(report: DataReport) -> dict[str, Any]:
    """Return the report as values for JSON."""
    plain = dataclasses.asdict(report)
    plain["counts"] = {
        split: dict(zip(report.class_names, counts, strict=True))
        for split, counts in report.counts.items()
    }
    return plain | {"images": report.images, "imbalance": round(report.imbalance, 2)}
