"""What an export, ``verify`` and ``inspect`` print about a verification."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from delugeserve.cli.options import check_output_file
from delugeserve.cli.render.console import err_console, out, print_table
from delugeserve.errors import UsageError
from delugeserve.system.files import atomic_write
from delugeserve.system.imports import require

if TYPE_CHECKING:
    from delugeserve.artifacts.manifest import Manifest
    from delugeserve.artifacts.records import Comparison, EvidenceRecord

_FLIPS_SHOWN = 3


def print_verification(manifest: Manifest) -> None:
    """Print the comparisons, and every check that failed."""
    verification = manifest.verification
    checks = verification.checks
    if verification.comparisons:
        print_table(
            ("precision", "batch", "logit error", "largest", "top-1", "top-5", "KL", "flips"),
            map(_row, verification.comparisons),
            title=f"compared with the network on {escape(verification.images)}",
        )
        _print_flips(verification.comparisons[-1])
    failed = verification.failures
    if failed:
        print_table(
            ("failed check", "found", "required", ""),
            (
                [escape(text) for text in (check.name, check.found, check.required, check.detail)]
                for check in failed
            ),
            texts=4,
        )
    elif verification.status == "passed":
        on = escape(verification.images)
        out.print(f"[green]passed[/] all {len(checks)} checks on {on}")
    else:
        reason = escape(checks[0].found) if checks else ""
        out.print(f"[yellow]{verification.status}[/]: {reason}")
        for check in checks[1:]:
            out.print(escape(f"{check.name}: {check.found} ({check.required})"))


def describe_evidence(evidence: EvidenceRecord) -> str:
    """Return what a version keeps to be verified again."""
    photos = f"{evidence.probe_images} crops of photographs with the network's logits"
    if evidence.data is None:
        return photos
    data = f"{evidence.data_images} {evidence.data}"
    if evidence.images_kept:
        return f"{photos}; {data} with the network's logits, THE IMAGES INCLUDED"
    return f"{photos}; SHA-256 and logits of {data}, without the images"


def _row(found: Comparison) -> tuple[str, ...]:
    return (
        found.precision,
        str(found.batch_size),
        f"{found.relative_error:.2g}",
        f"{found.max_error:.2g}",
        f"{found.top1_agreement:.1%}",
        f"{found.top5_agreement:.1%}",
        f"{found.kl_divergence:.1g}",
        f"{len(found.flips)}, margin {found.flips[0].margin:.2g}" if found.flips else "none",
    )


def _print_flips(found: Comparison) -> None:
    """Print the flips with the widest margins."""
    if not found.flips:
        return
    more = len(found.flips) - _FLIPS_SHOWN
    listed = "; ".join(
        f"image {flip.image} {flip.found_name}, not {flip.expected_name}"
        for flip in found.flips[:_FLIPS_SHOWN]
    )
    out.print(escape(f"flips: {listed}{f'; and {more} more' if more > 0 else ''}"))


def write_report(manifest: Manifest, path: Path | None) -> None:
    """Write the HTML report, if ``--report`` is given.

    Raises:
        UsageError: the file cannot be written.
    """
    if path is None:
        return
    from delugeserve_export.report import render_report

    try:
        with atomic_write(path) as temporary:
            temporary.write_text(render_report(manifest), encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror or error}.", "Choose another --report file."
        ) from error
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
        raise UsageError("Report path must end in .html.", f"Use --report {path.stem}.html.")
    check_output_file(path)
    for module in ("jinja2", "matplotlib.figure"):
        require(module, "export")
