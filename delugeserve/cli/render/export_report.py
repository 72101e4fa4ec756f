"""What ``delugeserve export`` prints: the plan, warnings, and the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape

from delugeserve.cli.render.console import (
    err_console,
    out,
    print_facts,
    print_table,
    print_warning,
)
from delugeserve.cli.render.verification import describe_evidence, print_verification

if TYPE_CHECKING:
    from delugeserve.artifacts.manifest import Manifest
    from delugeserve.artifacts.records import Quantisation
    from delugeserve_export import ExportOutcome, ExportPlan


def describe_plan(plan: ExportPlan) -> dict[str, Any]:
    """Return a plan as JSON values."""
    return {
        "model": plan.spec.name,
        "trained": plan.source is not None,
        "checkpoint": plan.source.origin.file if plan.source else None,
        "backend": plan.backend.name,
        "reason": plan.reason,
        "precision": plan.precision,
        "sum_form": plan.sum_form or "auto",
        "runs_here": plan.backend.runs_here(),
        "batch_sizes": plan.batch_sizes,
        "data": plan.data,
        "most_images": plan.num_images,
        "keep_evidence": plan.keep_evidence,
        "stages": [stage.value for stage in plan.stages],
        "folder": str(plan.folder),
    }


def print_plan(plan: ExportPlan) -> None:
    """Print what an export would do."""
    facts = describe_plan(plan)
    *sizes, largest = map(str, plan.batch_sizes)
    verified = f"at batch {', '.join(sizes)} and {largest}" if sizes else "at batch 1"
    if not facts["runs_here"]:
        verified = "built, not run: this machine has no GPU for it"
    images = f"at most {plan.num_images} crops of photographs"
    if plan.data:
        images = f"at most {plan.num_images} test images of {plan.data}, and crops of photographs"
    rows = {
        "model": plan.spec.name,
        "weights": facts["checkpoint"] or f"none: an untrained network, seed {plan.seed}",
        "backend": f"{plan.backend.name} ({plan.reason})",
        "precision": plan.precision,
        "weighted sums": plan.sum_form or "the fastest form; each is timed, unless timed before",
        "verified": verified,
        "images": images,
        "stages": ", ".join(facts["stages"]),
        "publishes": str(plan.folder),
    }
    if plan.int8 is not None:
        source = plan.int8.calibration_data or "crops of photographs"
        rows["calibration"] = (
            f"{plan.int8.calibration_method}, at most {plan.int8.calibration_images} images of "
            f"{source}; a drop of {plan.int8.max_drop:g} points of top-1 is allowed"
        )
    print_facts(rows)
    err_console.print("[dim]nothing was exported: --dry-run[/]")


def warn(manifest: Manifest) -> None:
    """Print what an export must not be used for."""
    if not manifest.trained:
        print_warning(
            f"'{manifest.model}' has no trained weights here, so an UNTRAINED network was "
            "exported. Its speed is right; its predictions mean nothing."
        )
    quantisation = manifest.quantisation
    if quantisation is not None and not quantisation.representative:
        print_warning(
            "int8 was calibrated on crops of photographs, which are not this network's classes. "
            "Use --calibration-data."
        )


def print_report(plan: ExportPlan, outcome: ExportOutcome) -> None:
    """Print what was exported, how long each stage took, and what was verified."""
    manifest = outcome.manifest
    err_console.print(escape(f"{plan.reason}."))
    total = sum(outcome.seconds.values())
    print_table(
        ("stage", "seconds"),
        [(stage, f"{seconds:.2f}") for stage, seconds in outcome.seconds.items()]
        + [("[bold]total[/]", f"[bold]{total:.2f}[/]")],
    )
    if manifest.quantisation is not None:
        _print_quantisation(manifest.quantisation)
    _print_sum_forms(manifest)
    print_verification(manifest)
    _print_speed(manifest)
    out.print(f"kept to verify again: {describe_evidence(manifest.evidence)}")
    size = f"{manifest.artefact_bytes / 1e6:.1f} MB"
    out.print(escape(f"{outcome.folder}: {manifest.artefact}, {size}, {manifest.precision}"))


def _print_speed(manifest: Manifest) -> None:
    """Print the artefact's speed, and that of the same backend in fp32 if that is another."""
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
    """Print the form of weighted sums, if the forms were timed."""
    sums = manifest.sum_form
    if sums.milliseconds:
        listed = ", ".join(f"{form} {ms:.3g}" for form, ms in sums.milliseconds.items())
        err_console.print(f"weighted sums: {sums.form}; milliseconds of a batch of 8: {listed}")


def _print_quantisation(facts: Quantisation) -> None:
    layers, kept = facts.layers, facts.kept
    allowed = "" if facts.max_drop is None else f", {facts.max_drop:g} allowed"
    out.print(
        escape(
            f"int8: {len(layers)} of {len(layers) + len(kept)} convolutions, calibrated by "
            f"{facts.method} on {facts.calibrated_on}"
        )
    )
    out.print(escape(f"int8: top-1 drop {facts.loss.drop:.2f} points{allowed} ({facts.judged_on})"))
    if kept:
        print_table(
            ("kept in the higher precision", "logit error of it alone in int8"),
            ((layer, f"{facts.sensitivity[layer]:.2g}") for layer in kept),
        )
