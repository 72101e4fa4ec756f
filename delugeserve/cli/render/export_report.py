"""What ``delugeserve export`` prints: before the work, and after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from delugeserve.cli.render.console import err_console, out, print_table
from delugeserve.cli.render.verification import print_verification

if TYPE_CHECKING:
    from delugeserve.artifacts.manifest import Manifest
    from delugeserve.artifacts.records import Quantisation
    from delugeserve_export.pipeline import Export
    from delugeserve_export.request import Settled


def describe_settled(settled: Settled) -> dict[str, Any]:
    """What would be done, as a program reads it."""
    return {
        "model": settled.spec.name,
        "trained": settled.source is not None,
        "checkpoint": settled.source.origin.file if settled.source else None,
        "backend": settled.backend.name,
        "reason": settled.reason,
        "precision": settled.precision,
        "sum_form": settled.sum_form or "auto",
        "runs_here": settled.backend.runs_here(),
        "batch_sizes": settled.sizes,
        "data": settled.data,
        "most_images": settled.num_images,
        "stages": settled.stages,
        "folder": str(settled.folder),
    }


def print_settled(settled: Settled) -> None:
    """Print what would be done."""
    facts = describe_settled(settled)
    weights = facts["checkpoint"] or f"none: an untrained network from seed {settled.seed}"
    images = f"test images of {facts['data']}" if facts["data"] else "crops of photographs"
    *sizes, largest = map(str, settled.sizes)
    verified = f"at batch {', '.join(sizes)} and {largest}" if sizes else "at batch 1"
    if not facts["runs_here"]:
        verified = (
            "built, not run: this machine has no GPU for it; 'delugeserve verify' where one is"
        )
    rows = {
        "model": settled.spec.name,
        "weights": weights,
        "backend": f"{settled.backend.name} ({settled.reason})",
        "precision": settled.precision,
        "sums": settled.sum_form or "each form is timed, the fastest taken, unless remembered",
        "verified": verified,
        "images": f"at most {settled.num_images} {images}",
        "stages": ", ".join(settled.stages),
        "publishes": str(settled.folder),
    }
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, escape(value))
    out.print(table, highlight=False)
    err_console.print("[dim]nothing was done: --dry-run[/]")


def warn(manifest: Manifest) -> None:
    """Say loudly what an export is not good for."""
    if not manifest.trained:
        err_console.print(
            "[bold yellow]warning:[/] there are no trained weights of "
            f"'{manifest.model}' here, so an UNTRAINED network was exported. Its speed is "
            "right, its answers mean nothing.",
            soft_wrap=True,
        )
    quantisation = manifest.quantisation
    if quantisation is not None and not quantisation.representative:
        err_console.print(
            "[bold yellow]warning:[/] int8 was calibrated on crops of photographs, which are not "
            "what this network classifies. Say --calibration-data.",
            soft_wrap=True,
        )


def print_report(done: Export) -> None:
    """Print what was exported, how long each stage took, and what the gate found."""
    manifest = done.manifest
    err_console.print(escape(done.reason), soft_wrap=True)
    total = sum(done.seconds.values())
    print_table(
        ("stage", "seconds"),
        [(stage, f"{seconds:.2f}") for stage, seconds in done.seconds.items()]
        + [("[bold]total[/]", f"[bold]{total:.2f}[/]")],
    )
    if manifest.quantisation is not None:
        _print_quantisation(manifest.quantisation)
    _print_sum_forms(manifest)
    print_verification(manifest)
    _print_speed(manifest)
    size = f"{manifest.artefact_bytes / 1e6:.1f} MB"
    out.print(
        f"{done.folder}: {manifest.artefact}, {size}, {manifest.precision}",
        highlight=False,
        soft_wrap=True,
    )


def _print_speed(manifest: Manifest) -> None:
    """Print the artefact's speed, and the same backend's in fp32 where that is something else."""
    if not manifest.speed:
        return
    sizes = list(next(iter(manifest.speed.values())))
    print_table(
        ("", *(f"ms, batch {size}" for size in sizes), "images/s"),
        (
            (
                name,
                *(f"{by_size[size]:.3g}" for size in sizes),
                f"{1000 * sizes[-1] / by_size[sizes[-1]]:,.0f}",
            )
            for name, by_size in manifest.speed.items()
        ),
        title="speed on this machine",
    )


def _print_sum_forms(manifest: Manifest) -> None:
    """Say which form of weighted sums was taken, and of what, if that was measured."""
    figures = manifest.sum_form.milliseconds
    if figures:
        listed = ", ".join(f"{form} {ms:.3g}" for form, ms in figures.items())
        err_console.print(
            f"weighted sums written as {manifest.sum_form.form}: ms for a batch of 8: {listed}",
            highlight=False,
        )


def _print_quantisation(facts: Quantisation) -> None:
    layers, kept, sensitivity = facts.layers, facts.kept, facts.sensitivity
    out.print(
        f"int8: {len(layers)} of {len(layers) + len(kept)} convolutions, calibrated by "
        f"{facts.method} on {facts.calibrated_on}; drop {facts.loss.drop:.2f} points "
        f"({facts.judged_on})",
        highlight=False,
        soft_wrap=True,
    )
    if kept:
        print_table(
            ("kept in the higher precision", "logit error of it alone in int8"),
            ((layer, f"{sensitivity[layer]:.2g}") for layer in kept),
        )
