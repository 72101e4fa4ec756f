"""``delugeserve benchmark-engines``: every backend and precision that runs here, side by side."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from delugeserve.artifacts.typed_json import to_json
from delugeserve.cli.options import check_output_file, parse_counts
from delugeserve.cli.render.console import err_console, out, print_json, print_table
from delugeserve.errors import UnknownNameError, UsageError, require
from delugeserve.plotting import check_picture_path, save_figure
from delugeserve.system import hardware
from delugeserve.system.files import atomic_write, temporary_folder
from delugeserve.zoo import find_model

if TYPE_CHECKING:
    from delugeserve_export.comparison import Row

_MARKS = {"passed": "[green]passed[/]", "failed": "[bold red]failed[/]"}


def command(
    model: Annotated[str, typer.Option(help="Name of the model; see 'models'.")] = "delugenet38",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Its weights. Default: the shipped ones.")
    ] = None,
    engines: Annotated[
        str | None,
        typer.Option(help="Such as openvino:bf16,onnxruntime:fp32. Default: all there are."),
    ] = None,
    batch_size: Annotated[str, typer.Option(help="Batch sizes to time, a list.")] = "1,8,32",
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set with a test split, to measure the error on. Default for CIFAR-10: "
            "DELUGESERVE_DATA."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use its first images only.")] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Write the figures to this CSV file.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw them to this PNG or SVG file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Export a model for every engine and compare size, error and speed."""
    spec = find_model(model)
    sizes = sorted(parse_counts("--batch-size", batch_size))
    if csv_file is not None:
        check_output_file(csv_file)
    if plot is not None:
        check_picture_path(plot)
        require("matplotlib", "export")
    for module in ("torch", "onnx"):
        require(module, "export")
    from delugeserve.data.datasets import load_images
    from delugeserve_export.comparison import compare_engines, every_engine
    from delugeserve_export.request import Request
    from delugeserve_export.samples import default_source, sample_images
    from delugeserve_export.source import load_source

    chosen = _choose(engines, every_engine())
    source = load_source(spec, checkpoint)
    class_names = source.class_names if source else spec.dataset.class_names
    if data is None:
        data = default_source(spec.dataset, class_names)
    labelled = load_images(data, "test", spec.dataset, limit=limit) if data is not None else None
    if labelled is not None:
        labelled.require_classes(class_names, "The network")
    images, _ = sample_images(spec.dataset, max(sizes))
    with (
        temporary_folder("delugeserve-engines-") as folder,
        err_console.status("starting") as status,
    ):
        request = Request(spec, checkpoint, max_batch_size=max(sizes), data=data)
        rows = compare_engines(
            request,
            chosen,
            folder,
            sizes=sizes,
            images=images,
            labelled=labelled,
            on_stage=lambda stage: status.update(f"{stage} ..."),
        )
    machine = hardware.describe()
    if json:
        values = [to_json(row) | {"images_per_s": row.images_per_s} for row in rows]
        print_json({"model": spec.name, "machine": machine, "engines": values})
    else:
        _print_rows(rows, sizes, f"{spec.name} on {machine}")
    if csv_file is not None:
        _write_csv(rows, sizes, csv_file)
    if plot is not None:
        from delugeserve.cli.render.engine_plot import draw_engines

        save_figure(draw_engines(rows, sizes, spec.name, machine), plot)


def _choose(wanted: str | None, known: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    if wanted is None:
        return list(known)
    # With hyphens, as 'export --backend' takes them, or as Triton spells them.
    by_name = {":".join(engine).replace("_", "-"): engine for engine in known}
    names = [name.strip() for name in wanted.split(",")]
    for name in names:
        if name.replace("_", "-") not in by_name:
            raise UnknownNameError("engine", name, by_name)
    return [by_name[name.replace("_", "-")] for name in names]


def _print_rows(rows: Sequence[Row], sizes: Sequence[int], title: str) -> None:
    print_table(
        ("engine", "", "MB", "top-1", "same", *(f"ms @{size}" for size in sizes), "images/s"),
        (
            (
                f"{row.backend} {row.precision}",
                _MARKS.get(row.status, f"[yellow]{row.status}[/]"),
                _figure(row.megabytes, ".2f"),
                _figure(None if row.top1_error is None else 100 - row.top1_error, ".2f"),
                _figure(row.top1_agreement, ".1%"),
                *(_figure(row.milliseconds.get(size), ".3g") for size in sizes),
                _figure(row.images_per_s, ",.0f"),
            )
            for row in rows
        ),
        title=title,
        texts=2,
    )
    for row in rows:
        if row.reason:
            out.print(
                f"{row.backend} {row.precision}: {escape(row.reason)}",
                highlight=False,
                soft_wrap=True,
            )


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _write_csv(rows: Sequence[Row], sizes: Sequence[int], path: Path) -> None:
    text = io.StringIO()
    fields = ("backend", "precision", "status", "megabytes", "top1_error", "top1_agreement")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*fields, *(f"ms_batch_{size}" for size in sizes), "images_per_s"])
    for row in rows:
        times = [row.milliseconds.get(size) for size in sizes]
        writer.writerow([*(getattr(row, name) for name in fields), *times, row.images_per_s])
    try:
        with atomic_write(path) as beside:
            beside.write_text(text.getvalue(), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}.", "Choose another file.") from error
