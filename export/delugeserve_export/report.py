"""A page about one artefact: its checks, how its logits differ from the network's, its speed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from delugeserve.artifacts.manifest import Manifest
from delugeserve.errors import require
from delugeserve.plotting import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPLATE = Path(__file__).with_name("report.html.jinja")


def render_report(manifest: Manifest) -> str:
    """Write a page of HTML that needs no other file.

    Args:
        manifest: of the artefact, published or rejected.

    Raises:
        MissingExtraError: matplotlib or Jinja is not installed.
    """
    jinja2 = require("jinja2", "export")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    plots = {
        "How far logits lie from the network's": _draw_errors(manifest),
        "Logit error of each layer alone in int8": _draw_sensitivity(manifest),
        "Milliseconds of a batch on the machine of the export": _draw_speed(manifest),
    }
    page: str = template.render(
        manifest=manifest,
        megabytes=manifest.artefact_bytes / 1e6,
        plots={title: _as_svg(figure) for title, figure in plots.items() if figure},
    )
    return page


def _draw_errors(manifest: Manifest) -> Figure | None:
    rows = [row for row in manifest.verification.comparisons if row.histogram]
    if not rows:
        return None
    figure = new_figure(8, 1.2 + 1.1 * len(rows))
    panels: Any = figure.subplots(len(rows), 1, squeeze=False)
    for axes, row in zip(panels[:, 0], rows, strict=True):
        edges = np.linspace(-row.max_error, row.max_error, len(row.histogram) + 1)
        axes.stairs(row.histogram, edges, fill=True, alpha=0.7)
        axes.set_yscale("symlog", linthresh=1)
        axes.set_yticks([])
        label = f"{row.precision}\nbatch {row.batch_size}"
        axes.set_ylabel(label, rotation=0, ha="right", va="center")
    panels[-1, 0].set_xlabel("difference of a logit")
    return figure


def _draw_sensitivity(manifest: Manifest) -> Figure | None:
    facts = manifest.quantisation
    if facts is None or not facts.sensitivity:
        return None
    sensitivity = facts.sensitivity
    names = list(sensitivity)
    figure = new_figure(8, 1.2 + 0.16 * len(names))
    axes: Any = figure.add_subplot()
    colours = ["C3" if name in facts.kept else "C0" for name in names]
    axes.barh(names, list(sensitivity.values()), color=colours, alpha=0.7)
    axes.tick_params(axis="y", labelsize=7)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlabel("of the logits' spread; red layers were kept in the higher precision")
    return figure


def _draw_speed(manifest: Manifest) -> Figure | None:
    if not manifest.speed:
        return None
    figure = new_figure(8, 1.2 + 0.5 * len(manifest.speed))
    sizes = list(next(iter(manifest.speed.values())))
    panels: Any = figure.subplots(1, len(sizes), squeeze=False, sharey=True)
    for axes, size in zip(panels[0], sizes, strict=True):
        values = [by_size[size] for by_size in manifest.speed.values()]
        bars = axes.barh(list(manifest.speed), values, color="C0", alpha=0.7)
        axes.bar_label(bars, fmt="%.3g", padding=3)
        axes.set_xlim(0, 1.25 * max(values))
        axes.set_title(f"batch {size}", fontsize=10)
        axes.set_xlabel("ms")
    return figure


def _as_svg(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg")
    text = stream.getvalue()
    return text[text.index("<svg") :]  # without the declarations of a file of its own
