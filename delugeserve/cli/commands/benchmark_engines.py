"""``delugeserve benchmark-engines``: every backend and precision that runs here, compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from delugeserve.artifacts.typed_json import to_json
from delugeserve.cli.options import (
    Csv,
    Json,
    Plot,
    check_output_file,
    complete_models,
    parse_counts,
    with_default,
)
from delugeserve.cli.render.console import err_console, print_json, print_table
from delugeserve.cli.render.csv_file import write_csv
from delugeserve.cli.render.progress import show_progress
from delugeserve.errors import UnknownNameError
from delugeserve.plotting import check_picture_path, save_figure
from delugeserve.system import hardware
from delugeserve.system.files import temporary_folder
from delugeserve.system.imports import require
from delugeserve.zoo import find_model

if TYPE_CHECKING:
    from delugeserve_export.comparison import Row
    from delugeserve_export.plan import ExportPlan

_MARKS = {"passed": "[green]passed[/]", "failed": "[bold red]failed[/]"}


def command(
    model: Annotated[
        str | None,
        typer.Option(
            help=with_default(
                "Model name; see 'delugeserve models'.", "the checkpoint's, otherwise delugenet38"
            ),
            autocompletion=complete_models,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help=with_default(
                "Checkpoint (.safetensors) or run folder.", "the model's pretrained weights"
            ),
        ),
    ] = None,
    engines: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help=with_default("Engines to compare, such as openvino:bf16,onnxruntime:fp32.", "all"),
        ),
    ] = None,
    batch_size: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Batch sizes to measure: a list (1,8,32) or a range START:STOP:STEP (1:16:4).",
        ),
    ] = "1,8,32",
    data: Annotated[
        str | None,
        typer.Option(
            help=with_default(
                "Data set whose test split the top-1 error is measured on.",
                "DELUGESERVE_DATA for a CIFAR-10 model, otherwise none",
            ),
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help=with_default("Use only the first N test images.", "all")),
    ] = None,
    csv_file: Csv = None,
    plot: Plot = None,
    json: Json = False,
) -> None:
    """Compare size, top-1 error and speed of a model in every engine: a runtime in a precision.

    Exports the model for each into a temporary folder, which is removed at the end. Engines that
    cannot run here are listed with the reason.
    """
    if model is None and checkpoint is None:
        model = "delugenet38"
    spec = find_model(model) if model else None
    sizes = sorted(parse_counts("--batch-size", batch_size))
    if csv_file is not None:
        check_output_file(csv_file)
    if plot is not None:
        check_picture_path(plot)
        require("matplotlib", "export")
    for module in ("torch", "onnx"):
        require(module, "export")
    from delugeserve.data.datasets import load_images
    from delugeserve_export import plan_export
    from delugeserve_export.comparison import compare_engines, every_engine
    from delugeserve_export.samples import photo_crops

    chosen = _choose(engines, every_engine())

    def plan_for(backend: str, precision: str, repository: Path) -> ExportPlan:
        return plan_export(
            spec,
            checkpoint,
            repository=repository,
            backend=backend,
            precision=precision,
            max_batch_size=max(sizes),
            data=data,
        )

    # The plan of the engine that is always installed finds checkpoint and data, whatever the list.
    with temporary_folder("delugeserve-engines-") as folder:
        plan = plan_for("onnxruntime", "fp32", folder)
        labelled = None
        if plan.data is not None:
            labelled = load_images(plan.data, "test", plan.spec.task, limit=limit)
            labelled.require_classes(plan.spec.task.class_names, "The network")
        with show_progress() as progress:
            rows = compare_engines(
                plan_for,
                chosen,
                folder,
                sizes=sizes,
                images=photo_crops(plan.spec.task.image_size, max(sizes)),
                labelled=labelled,
                progress=progress,
            )
    machine = hardware.describe()
    if json:
        values = [to_json(row) | {"images_per_s": row.images_per_s} for row in rows]
        print_json({"model": plan.spec.name, "machine": machine, "engines": values})
    else:
        _print_rows(rows, sizes, f"{plan.spec.name} on {machine}")
    if csv_file is not None:
        _write_csv(rows, sizes, csv_file)
        err_console.print(f"CSV: {escape(str(csv_file))}")
    if plot is not None:
        from delugeserve.cli.render.engine_plot import draw_engines

        save_figure(draw_engines(rows, sizes, plan.spec.name, machine), plot)
        err_console.print(f"plot: {escape(str(plot))}")


def _choose(wanted: str | None, known: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    if wanted is None:
        return list(known)
    # With hyphens, as 'export --backend' takes them, or with Triton's underscores.
    by_name = {":".join(engine).replace("_", "-"): engine for engine in known}
    names = [name.strip() for name in wanted.split(",")]
    for name in names:
        if name.replace("_", "-") not in by_name:
            raise UnknownNameError("engine", name, by_name)
    return [by_name[name.replace("_", "-")] for name in dict.fromkeys(names)]


def _print_rows(rows: Sequence[Row], sizes: Sequence[int], title: str) -> None:
    with_error = any(row.top1_error is not None for row in rows)
    print_table(
        (
            "engine",
            "checks",
            "MB",
            *["top-1 error"] * with_error,
            "same top-1",
            *(f"batch {size}" for size in sizes),
            "images/s",
            "speedup",
        ),
        (
            (
                _name(row),
                _MARKS.get(row.status, f"[yellow]{row.status}[/]"),
                _figure(row.megabytes, ".2f"),
                *[_figure(row.top1_error, ".2f", " %")] * with_error,
                _figure(row.top1_agreement, ".1%"),
                *(_figure(row.milliseconds.get(size), ".2f") for size in sizes),
                _figure(row.images_per_s, ",.0f"),
                _figure(row.speedup, ".2f", "x"),
            )
            for row in rows
        ),
        title=escape(f"{title}; batch N: milliseconds per batch of N images"),
        texts=2,
    )
    if any(row.speedup for row in rows):
        err_console.print(
            "[dim]same top-1: fraction of the verified images with PyTorch's predicted class\n"
            "images/s: at the fastest of the batch sizes; speedup: over onnxruntime fp32[/]"
        )
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        if row.reason:
            by_reason.setdefault(f"{row.status}: {row.reason}", []).append(_name(row))
    for reason, names in by_reason.items():
        err_console.print(escape(f"{', '.join(names)} {reason}"))


def _name(row: Row) -> str:
    return f"{row.backend.replace('_', '-')} {row.precision}"


def _figure(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def _write_csv(rows: Sequence[Row], sizes: Sequence[int], path: Path) -> None:
    fields = (
        "backend", "precision", "status", "megabytes", "top1_error", "top1_agreement",
    )  # fmt: skip
    write_csv(
        path,
        [*fields, *(f"ms_batch_{size}" for size in sizes), "images_per_s", "speedup", "reason"],
        (
            [
                *(getattr(row, name) for name in fields),
                *(row.milliseconds.get(size) for size in sizes),
                *(row.images_per_s, row.speedup, row.reason),
            ]
            for row in rows
        ),
    )
