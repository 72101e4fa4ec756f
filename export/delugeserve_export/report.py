"""An HTML report about one artefact: its checks, its logits, its speed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from delugeserve.artifacts.manifest import Manifest
from delugeserve.plotting import new_figure
from delugeserve.system.imports import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_MOST_FLIPS = 20


def render_report(manifest: Manifest) -> str:
    """Return a page of HTML that needs no other file.

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
        "Differences of logits": _draw_errors(manifest),
        "Sensitivity of the layers to int8": _draw_sensitivity(manifest),
        "Speed on the exporting machine": _draw_speed(manifest),
    }
    page: str = template.render(
        manifest=manifest,
        facts=_describe(manifest),
        most_flips=_MOST_FLIPS,
        plots={title: _as_svg(figure) for title, figure in plots.items() if figure},
    )
    return page


def _describe(manifest: Manifest) -> dict[str, str]:
    """Return the facts at the top of the page."""
    origin, network = manifest.checkpoint, manifest.network
    facts = {
        "network": f"{network.name} ({network.architecture.name}), {network.task.num_classes} "
        f"classes, images of {network.task.image_size} x {network.task.image_size} pixels",
        "weights": origin.file or f"none: an untrained network, seed {origin.seed}",
        "artefact": f"{manifest.artefact}, {manifest.artefact_bytes / 1e6:.1f} MB",
        "largest batch": str(manifest.max_batch_size),
        "weighted sums": manifest.sum_form.form,
        "exported": manifest.created,
    }
    if "top1_error" in origin.metrics:
        split = origin.metrics.get("split", "test")
        error = f"top-1 {origin.metrics['top1_error']:.2f} %, as training measured it"
        facts[f"{split} error"] = error
    if quantisation := manifest.quantisation:
        total = len(quantisation.layers) + len(quantisation.kept)
        allowed = quantisation.max_drop
        facts["int8"] = f"{len(quantisation.layers)} of {total} convolutions"
        facts["calibration"] = f"{quantisation.method} on {quantisation.calibrated_on}"
        facts["top-1 drop"] = f"{quantisation.loss.drop:.2f} points ({quantisation.judged_on})" + (
            "" if allowed is None else f"; {allowed:g} allowed"
        )
        if quantisation.kept:
            facts["higher precision"] = ", ".join(quantisation.kept)
    return facts


def _draw_errors(manifest: Manifest) -> Figure | None:
    rows = [row for row in manifest.verification.comparisons if row.histogram]
    if not rows:
        return None
    figure = new_figure(8, 1.2 + 0.9 * len(rows))
    panels: Any = figure.subplots(len(rows), 1, squeeze=False)
    for axes, row in zip(panels[:, 0], rows, strict=True):
        edges = np.linspace(-row.max_error, row.max_error, len(row.histogram) + 1)
        axes.stairs(row.histogram, edges, fill=True, alpha=0.7)
        axes.set_yscale("symlog", linthresh=1)
        axes.set_yticks([])
        axes.tick_params(axis="x", labelsize=8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_ylabel(
            f"{row.precision}\nbatch {row.batch_size}", rotation=0, ha="right", va="center"
        )
    panels[-1, 0].set_xlabel(
        "difference of a logit from the network's (each row has its own scale)"
    )
    return figure


def _draw_sensitivity(manifest: Manifest) -> Figure | None:
    quantisation = manifest.quantisation
    if quantisation is None or not quantisation.sensitivity:
        return None
    names = list(quantisation.sensitivity)
    figure = new_figure(8, 1.4 + 0.16 * len(names))
    axes: Any = figure.add_subplot()
    for label, colour, chosen in (
        ("in int8", "C0", quantisation.layers),
        ("kept in the higher precision", "C3", quantisation.kept),
    ):
        shown = [name for name in names if name in chosen]
        values = [quantisation.sensitivity[name] for name in shown]
        axes.barh(
            [names.index(name) for name in shown], values, color=colour, alpha=0.7, label=label
        )
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", fontsize=8)
    axes.set_xlabel("logit error with this layer alone in int8")
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
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(f"batch {size}", fontsize=10)
        axes.set_xlabel("milliseconds per batch (less is better)")
    return figure


def _as_svg(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg")
    text = stream.getvalue()
    return text[text.index("<svg") :]  # without the XML declaration of a file
