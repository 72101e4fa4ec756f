"""What an export, ``verify`` and ``inspect`` print about a verification."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from delugeserve.cli.options import check_output_file
from delugeserve.cli.render.console import err_console, out, print_table
from delugeserve.errors import UsageError
from delugeserve.system.files import write_output
from delugeserve.system.imports import require

if TYPE_CHECKING:
    from delugeserve.artifacts.manifest import Manifest
    from delugeserve.artifacts.records import Check, Comparison, EvidenceRecord, Verification

_FLIPS_SHOWN = 3


def print_verification(manifest: Manifest) -> None:
    """Print the newest verification: what was compared, what was required, every failed check."""
    _print(manifest.verification, manifest.evidence)
    _print_legend([manifest.verification])


def print_verifications(manifest: Manifest) -> None:
    """Print the verification by the export, and the newest one if ``verify`` was run."""
    first, newest = manifest.export_verification, manifest.verification
    date = newest.date.replace("T", " ").replace("+00:00", " UTC")
    if first is None:
        print_verification(manifest)
        return
    out.print(f"[bold]At the export[/] ({escape(first.machine)}):")
    _print(first, manifest.evidence)
    out.print(f"\n[bold]Verified again[/] {date} ({escape(newest.machine)}):")
    _print(newest, manifest.evidence)
    _print_legend([first, newest])


def describe_evidence(evidence: EvidenceRecord) -> str:
    """Return what a version stores for ``delugeserve verify``."""
    photos = f"{evidence.probe_images} crops of photographs"
    if evidence.data is None:
        return photos
    data = f"{evidence.data_images} {evidence.data}"
    if evidence.images_kept:
        return f"{photos} and {data}, THE IMAGES INCLUDED"
    return f"{photos}; SHA-256 and logits, not the images, of {data}"


def _print(verification: Verification, evidence: EvidenceRecord) -> None:
    checks, on = verification.checks, escape(verification.images)
    if verification.comparisons:
        print_table(
            (
                "precision", "batch", "RMS error", "allowed", "max error",
                "same top-1", "required", "top-5 overlap", "KL",
            ),
            map(_row, verification.comparisons),
            title=f"Compared with PyTorch in fp32 on {on}",
        )  # fmt: skip
        _print_flips(verification.comparisons[-1], evidence)
    if verification.failures:
        _print_checks("failed check", verification.failures)
    elif verification.status == "passed":
        _print_checks("other check", [check for check in checks if not check.compared])
        out.print(f"[green]passed[/] all {len(checks)} checks on {on}")
    else:
        reason = escape(checks[0].found) if checks else ""
        out.print(f"[yellow]{verification.status}[/]: {reason}")
        for check in checks[1:]:
            out.print(escape(f"{check.name}: {check.found} ({check.required})"))


def _print_checks(heading: str, checks: Sequence[Check]) -> None:
    if not checks:
        return
    print_table(
        (heading, "found", "required"),
        (map(escape, (check.name, check.found, check.required)) for check in checks),
        texts=3,
    )
    for check in checks:  # a column of their own would make the table too wide
        if check.detail and not check.passed:
            out.print(escape(f"worst case of {check.name}: {check.detail}"))


def _row(found: Comparison) -> tuple[str, ...]:
    agreement = found.required_agreement
    return (
        found.precision,
        str(found.batch_size),
        f"{found.relative_error:.2g}",
        "-" if found.allowed_error is None else f"<= {found.allowed_error:g}",
        f"{found.max_error:.2g}",
        _same_class(found),
        "-" if agreement is None else f">= {100 * agreement:g}%",
        f"{found.top5_agreement:.1%}",
        f"{found.kl_divergence:.1g}",
    )


def _same_class(found: Comparison) -> str:
    """Return how many images have the network's class, and how many of the others are close."""
    same = f"{found.num_images - len(found.flips)} of {found.num_images}"
    margin = found.close_margin
    close = 0 if margin is None else sum(flip.margin <= margin for flip in found.flips)
    return f"{same} ({close} close)" if close else same


def _print_flips(found: Comparison, evidence: EvidenceRecord) -> None:
    """Print the images whose predicted class changed, the widest margins first."""
    if not found.flips:
        return
    out.print("changed predictions, from PyTorch's class to the artefact's:")
    for flip in found.flips[:_FLIPS_SHOWN]:
        image = _name_image(flip.image, found.num_images, evidence)
        names = f"{flip.expected_name} -> {flip.found_name}"
        out.print(escape(f"  {image}: {names}, margin {flip.margin:.2g}"))
    if len(found.flips) > _FLIPS_SHOWN:
        out.print(f"  and {len(found.flips) - _FLIPS_SHOWN} more")


def _name_image(index: int, count: int, evidence: EvidenceRecord) -> str:
    """Name one of the compared images: those of the data set come first, then the crops."""
    of_data = count - evidence.probe_images
    if evidence.data is None or of_data == 0:
        return f"crop {index}"
    if of_data < 0:
        return f"image {index}"
    return f"test image {index}" if index < of_data else f"crop {index - of_data}"


def _print_legend(verifications: Sequence[Verification]) -> None:
    """Explain the columns of the comparisons."""
    rows = [row for verification in verifications for row in verification.comparisons]
    if not rows:
        return
    last = rows[-1]
    lines = {
        "RMS error": "root-mean-square difference of the logits / their standard deviation",
        "max error": "largest absolute difference of a logit",
        "same top-1": "images with PyTorch's predicted class: agreement, not accuracy",
        "top-5 overlap": "mean share of PyTorch's five most probable classes",
        "KL": "mean Kullback-Leibler divergence from PyTorch's probabilities, in nats",
    }
    if last.close_margin is not None and any(row.flips for row in rows):
        lines["close"] = (
            f"PyTorch's logits of the two classes differ by at most {last.close_margin:.2g}; "
            "counts as the same"
        )
    if last.precision != "fp32" and any(row.precision == "fp32" for row in rows):
        lines["fp32 row"] = (
            f"the same graph in fp32: checks graph and weights without {last.precision} rounding"
        )
    for name, meaning in lines.items():
        err_console.print(f"[dim]{name:<13}  {escape(meaning)}[/]")


def write_report(manifest: Manifest, path: Path | None) -> None:
    """Write the HTML report, if ``--report`` is given.

    Raises:
        UsageError: the file cannot be written.
    """
    if path is None:
        return
    from delugeserve_export.report import render_report

    text = render_report(manifest)
    with write_output(path) as beside:
        beside.write_text(text, encoding="utf-8")
    err_console.print(f"report: {escape(str(path))}")


def check_report_path(path: Path | None) -> None:
    """Check before the work that the HTML report can be written after it.

    Raises:
        UsageError: the path does not end in .html, or its folder is not writable.
        MissingExtraError: matplotlib or Jinja is not installed.
    """
    if path is None:
        return
    if path.suffix.lower() not in (".html", ".htm"):
        page = path.parent / f"{path.stem}.html"
        remedy = f"Use --report {shlex.quote(str(page))}"
        raise UsageError("Report path must end in .html.", remedy)
    check_output_file(path)
    for module in ("jinja2", "matplotlib.figure"):
        require(module, "export")
