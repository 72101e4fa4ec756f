"""What ``delugeserve export`` prints: the plan, warnings, and the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape

from delugeserve.artifacts.typed_json import to_json
from delugeserve.cli.render.changes import describe_changes, print_changes, print_publication
from delugeserve.cli.render.console import (
    err_console,
    out,
    print_facts,
    print_table,
    print_warning,
)
from delugeserve.cli.render.verification import describe_evidence, print_verification

if TYPE_CHECKING:
    from pathlib import Path

    from delugeserve.artifacts.manifest import Manifest
    from delugeserve.artifacts.records import Quantisation
    from delugeserve_export import ExportOutcome, ExportPlan


def describe_plan(plan: ExportPlan) -> dict[str, Any]:
    """Return a plan as JSON values."""
    return {
        "model": plan.spec.name,
        "name": plan.name,
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
        "outputs": plan.outputs,
        "image_model": plan.image_model_name,
        "stages": [stage.value for stage in plan.stages],
        "folder": str(plan.folder),
        "changes": describe_changes(plan.changes),
    }


def describe_outcome(outcome: ExportOutcome) -> dict[str, Any]:
    """Return the result of an export as JSON values: the manifest, and how it was published."""
    values = outcome.manifest.to_json()
    if outcome.folder is None or outcome.config is None:
        return values
    config = outcome.config
    return values | {
        "folder": str(outcome.folder),
        "image_model": outcome.image_model,
        "changes": describe_changes(outcome.changes),
        "config": {
            "kept": to_json(config.kept),
            "replaced": to_json(config.replaced),
            "lost": list(config.lost),
            "saved": str(outcome.saved_config) if outcome.saved_config else None,
        },
    }


def print_plan(plan: ExportPlan) -> None:
    """Print what an export would do."""
    facts = describe_plan(plan)
    sizes = ", ".join(map(str, plan.batch_sizes))
    if not facts["runs_here"]:
        sizes = "none: it is built, not run, since this machine has no GPU for it"
    images = f"up to {plan.num_images} crops of photographs"
    if plan.data:
        images = f"up to {plan.num_images} test images of {plan.data}, and crops of photographs"
    rows = {
        "model": plan.spec.name,
        "name": plan.name if plan.name != plan.spec.name else "",
        "weights": facts["checkpoint"] or f"UNTRAINED, random with seed {plan.seed}",
        "backend": f"{plan.backend.name} ({plan.reason})",
        "precision": plan.precision,
        "sum form": plan.sum_form or "auto: the fastest on this machine (timed once, then cached)",
        "verified batch sizes": sizes,
        "verified images": images,
        "outputs": ", ".join(plan.outputs),
        "encoded images": f"{facts['image_model']} takes them" if plan.image_model else "",
        "stages": ", ".join(facts["stages"]),
        "output": str(plan.folder),
    }
    if plan.int8 is not None:
        source = plan.int8.calibration_data or "crops of photographs"
        rows["calibration"] = (
            f"{plan.int8.calibration_method}, up to {plan.int8.calibration_images} images of "
            f"{source}; the drop of top-1 accuracy may be {plan.int8.max_drop:g} points"
        )
    print_facts(rows)
    if plan.changes is not None:
        print_changes(plan.changes)
    warn_untrained(plan)
    err_console.print("[dim]Dry run: nothing was exported.[/]")


def warn_untrained(plan: ExportPlan) -> None:
    """Warn before an export of random weights."""
    if plan.source is None:
        print_warning(
            f"No pretrained weights for '{plan.spec.name}': exporting UNTRAINED, random weights. "
            "Its latency is representative, its predictions are not. Train it with: "
            f"delugeserve train --model {plan.spec.name} --data DATA --output RUN"
        )


def warn(manifest: Manifest) -> None:
    """Print what an export must not be used for."""
    quantisation = manifest.quantisation
    if quantisation is not None and not quantisation.representative:
        print_warning(
            "int8 was calibrated on crops of photographs, not on images of the network's classes. "
            "Export again with --calibration-data."
        )


def print_report(plan: ExportPlan, outcome: ExportOutcome) -> None:
    """Print what was exported, what was verified, and where it is."""
    manifest = outcome.manifest
    err_console.print(escape(f"{plan.reason}."))
    if manifest.quantisation is not None:
        _print_quantisation(manifest.quantisation)
    _print_sum_forms(manifest)
    print_verification(manifest)
    _print_speed(manifest)
    out.print(escape(f"stored for 'delugeserve verify': {describe_evidence(manifest.evidence)}"))
    size = f"{sum(file.bytes for file in manifest.files.values()) / 1e6:.1f} MB"
    out.print(
        escape(
            f"{outcome.folder}: {manifest.backend}, {manifest.precision}, {size}, exported in "
            f"{sum(outcome.seconds.values()):.1f} s"
        )
    )
    if outcome.image_model is not None:
        out.print(escape(f"{outcome.image_model}: takes encoded images, such as JPEG files"))
    if outcome.folder is not None:
        _print_other_versions(outcome.folder)
    print_publication(outcome)


def _print_other_versions(folder: Path) -> None:
    others = sorted(
        int(other.name)
        for other in folder.parent.iterdir()
        if other.name.isdecimal() and other.name != folder.name
    )
    if others:
        kept = ", ".join(map(str, others))
        err_console.print(f"Triton serves version {folder.name} from now on; {kept} stays on disk.")


def _print_speed(manifest: Manifest) -> None:
    """Print the artefact's speed, and that of the same backend in fp32 if that is another."""
    if not manifest.speed:
        return
    sizes = list(next(iter(manifest.speed.values())))
    print_table(
        (
            "precision",
            *(f"latency, batch {size} (ms)" for size in sizes),
            f"images/s, batch {sizes[-1]}",
        ),
        (
            (
                name,
                *(f"{by_size[size]:.2f}" for size in sizes),
                f"{1000 * sizes[-1] / by_size[sizes[-1]]:,.0f}",
            )
            for name, by_size in manifest.speed.items()
        ),
        title="Speed on this machine",
    )


def _print_sum_forms(manifest: Manifest) -> None:
    """Print the form of the cross-layer sums, if the forms were timed.

    Not their times, which may be from an earlier export, when the machine was busier or idler.
    """
    sums = manifest.sum_form
    if sums.milliseconds:
        count = len(sums.milliseconds)
        err_console.print(f"Cross-layer sums: {sums.form}, the fastest of {count} forms.")


def _print_quantisation(facts: Quantisation) -> None:
    layers, kept = facts.layers, facts.kept
    allowed = "" if facts.max_drop is None else f", at most {facts.max_drop:g} allowed"
    out.print(
        escape(
            f"int8: {len(layers)} of {len(layers) + len(kept)} convolutions, calibrated by "
            f"{facts.method} on {facts.calibrated_on}"
        )
    )
    out.print(escape(f"int8: {facts.judged_on}: drop {facts.loss.drop:.2f} points{allowed}"))
    if kept:
        print_table(
            ("kept in the higher precision", "logit error of it alone in int8"),
            ((layer, f"{facts.sensitivity[layer]:.2g}") for layer in kept),
        )
