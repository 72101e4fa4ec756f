"""What an export and a verification print of an artefact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from delugeserve.cli.options import check_output_file
from delugeserve.cli.render.console import err_console, out, print_table
from delugeserve.errors import UsageError, require
from delugeserve.system.files import atomic_write

if TYPE_CHECKING:
    from delugeserve.artifacts.manifest import Manifest
    from delugeserve.artifacts.records import Comparison


def print_verification(manifest: Manifest) -> None:
    """Print what was found, and every check that failed."""
    verification = manifest.verification
    checks = verification.checks
    if verification.comparisons:
        print_table(
            ("precision", "batch", "logit error", "most", "top-1", "top-5", "KL", "flips"),
            map(_row, verification.comparisons),
            title=f"beside the network, on {verification.images}",
        )
    failed = [check for check in checks if not check.passed]
    if failed:
        print_table(
            ("failed", "found", "required", ""),
            (
                [escape(getattr(check, key)) for key in ("name", "found", "required", "detail")]
                for check in failed
            ),
            texts=4,
        )
    elif verification.status == "passed":
        out.print(f"[green]passed[/] all {len(checks)} checks", highlight=False)
    else:
        why = escape(checks[0].found)
        out.print(f"[yellow]{verification.status}[/]: {why}", highlight=False, soft_wrap=True)
        for check in checks[1:]:
            text = escape(f"{check.name}: {check.found} ({check.required})")
            out.print(text, highlight=False, soft_wrap=True)


def _row(found: Comparison) -> tuple[str, ...]:
    flips = found.flips
    return (
        found.precision,
        str(found.batch_size),
        f"{found.relative_error:.2g}",
        f"{found.max_error:.2g}",
        f"{found.top1_agreement:.1%}",
        f"{found.top5_agreement:.1%}",
        f"{found.kl_divergence:.1g}",
        f"{len(flips)}, margin {flips[0].margin:.2g}" if flips else "none",
    )


def write_report(manifest: Manifest, path: Path | None) -> None:
    """Write the page that ``--report`` asks for, if it does.

    Raises:
        UsageError: the file cannot be written.
    """
    if path is None:
        return
    from delugeserve_export.report import render_report

    try:
        with atomic_write(path) as beside:
            beside.write_text(render_report(manifest), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}.", "Choose another file.") from error
    err_console.print(f"report: {escape(str(path))}", soft_wrap=True)


def check_report_path(path: Path | None) -> None:
    """Let whatever keeps the report from being written do so before the work, not after it."""
    if path is None:
        return
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{path} is no page's name.", "Let it end in .html.")
    check_output_file(path)
    for module in ("jinja2", "matplotlib.figure"):
        require(module, "export")
