"""Print the versions of a repository, and what changing the served one does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import filesize
from rich.markup import escape
from rich.text import Text

from delugeserve.artifacts.changes import describe_error
from delugeserve.artifacts.repository import repository_option
from delugeserve.artifacts.typed_json import to_json
from delugeserve.cli.render.changes import describe_changes, print_changes, print_config
from delugeserve.cli.render.console import (
    err_console,
    out,
    print_next,
    print_table,
    print_warning,
)

if TYPE_CHECKING:
    from delugeserve.artifacts.promotion import Promotion
    from delugeserve.artifacts.removal import Removal
    from delugeserve.artifacts.versions import StoredVersion


def describe_versions(versions: Sequence[StoredVersion]) -> list[dict[str, Any]]:
    """Return versions as JSON values; None for what is not known."""
    return [_describe_version(one) for one in versions]


def _describe_version(one: StoredVersion) -> dict[str, Any]:
    manifest = one.manifest
    error = describe_error(manifest.checkpoint.metrics) if manifest else {}
    return {
        "model": one.model,
        "version": one.version,
        "served": one.served,
        "share": one.share,
        "created": manifest and manifest.created,
        "backend": manifest and manifest.backend,
        "precision": manifest and manifest.precision,
        "trained": manifest and manifest.trained,
        "verification": manifest and manifest.verification.status,
        "top1_error": error.get("top1_error"),
        "top1_error_split": error.get("top1_error_split"),
        "classes": one.classes,
        "bytes": one.bytes,
        "fault": one.fault,
    }


def print_versions(versions: Sequence[StoredVersion]) -> None:
    """Print a table of versions, and which of them cannot be read."""
    rows = [(one, _describe_version(one)) for one in versions]
    print_table(
        ("model", "version", "served", "created", "backend", "precision", "error %", "classes",
         "size"),
        (
            (
                Text(one.model),
                str(one.version),
                _state(one),
                (facts["created"] or "?")[:16].replace("T", " "),
                Text(facts["backend"] or "?"),
                facts["precision"] or "?",
                "-" if facts["top1_error"] is None else f"{facts['top1_error']:.2f}",
                "?" if one.classes is None else str(one.classes),
                filesize.decimal(one.bytes),
            )
            for one, facts in rows
        ),
        texts=6,
    )  # fmt: skip
    for one in versions:
        if one.fault is not None:
            print_warning(one.fault)


def _state(one: StoredVersion) -> str:
    if one.share is not None:
        return f"[yellow]canary, {format_share(one.share)}[/]"
    return "[green]yes[/]" if one.served else "-"


def format_share(share: float) -> str:
    """Return a fraction of the requests as a percentage."""
    return f"{100 * share:.4g}%"


def describe_promotion(plan: Promotion, *, dry_run: bool) -> dict[str, Any]:
    """Return a change of the served version as JSON values."""
    return {
        "model": plan.model,
        "version": plan.version,
        "before": plan.before,
        "changed": plan.changed and not dry_run,
        "dry_run": dry_run,
        "changes": describe_changes(plan.changes),
        "config": {
            name: {
                "kept": to_json(merge.kept),
                "replaced": to_json(merge.replaced),
                "lost": list(merge.lost),
            }
            for name, merge in plan.configs.items()
        },
        "off": list(plan.off),
        "adopted": {one.name: int(one.source.name) for one in plan.adopted},
        "saved": [str(path) for path in plan.saved],
        "ended_canary": to_json(plan.ended) if plan.ended else None,
    }


def print_promotion(plan: Promotion, repository: Path, *, dry_run: bool, wait: bool) -> None:
    """Print which version is served, what changes for clients and in the configurations."""
    would = "would be" if dry_run else "is"
    if plan.version != plan.before:
        before = f" (before: {plan.before})" if plan.before is not None else ""
        out.print(escape(f"{plan.model}: version {plan.version} {would} served{before}"))
    elif plan.ended is not None:
        out.print(escape(f"{plan.model}: version {plan.version} {would} served alone"))
    elif plan.changed:
        out.print(escape(f"{plan.model}: version {plan.version} is served already; its "
                         f"configuration {would} mended"))  # fmt: skip
    else:
        out.print(escape(f"{plan.model}: version {plan.version} is served already"))
    if plan.ended is not None:
        share = format_share(plan.ended.share)
        out.print(f"canary: version {plan.ended.version} ({share}) {would} ended")
    if plan.changes is not None:
        print_changes(plan.changes)
    for name, merge in plan.configs.items():
        print_config(merge, f"{name}/config.pbtxt")
    for path in plan.saved:
        print_warning(f"Comments of config.pbtxt could not be kept. The old file is {path}.")
    for one in plan.adopted:
        out.print(
            escape(
                f"{one.name}: version {plan.version} {would} a copy of version "
                f"{one.source.name}, which prepares images alike"
            )
        )
    for name in plan.off:
        print_warning(
            f"{name} is not served: version {plan.version} has none. Export the model again to "
            "have one."
        )
    if not wait:
        print_running(repository, changed=plan.changed and not dry_run)


def print_running(repository: Path, *, changed: bool) -> None:
    """Say what the running servers of a repository do about a change."""
    if not changed:
        return
    numbers = running_servers(repository)
    if numbers:
        err_console.print(
            f"The running server (process {', '.join(map(str, numbers))}) starts it beside the old "
            "one, proves it, and then switches."
        )
        print_next(f"delugeserve status --watch{repository_option(repository)}")
    else:
        print_next(f"delugeserve serve{repository_option(repository)}")


def running_servers(repository: Path) -> list[int]:
    """Return the process numbers of the running servers of a repository."""
    from delugeserve.serving.fleet.status import find_servers

    return [status.pid for status in find_servers(repository)]


def versions_in_use(repository: Path) -> set[tuple[str, int | None]]:
    """Return the models and versions that running servers of a repository serve or start."""
    from delugeserve.serving.fleet.status import find_servers

    return {
        in_use
        for status in find_servers(repository)
        for release in (status.release, status.pending, status.canary and status.canary.release)
        if release
        for in_use in release.versions.items()
    }


def describe_removals(plans: Sequence[Removal], *, dry_run: bool) -> dict[str, Any]:
    """Return what is removed as JSON values."""
    return {
        "removed": [] if dry_run else [_describe_removal(plan) for plan in plans],
        "would_remove": [_describe_removal(plan) for plan in plans] if dry_run else [],
        "bytes": sum(plan.bytes for plan in plans),
        "dry_run": dry_run,
    }


def _describe_removal(plan: Removal) -> dict[str, Any]:
    return {
        "model": plan.model,
        "version": plan.version,
        "folders": [str(folder) for folder in plan.folders],
        "bytes": plan.bytes,
    }


def print_removals(plans: Sequence[Removal], *, dry_run: bool) -> None:
    """Print what is removed."""
    would = "would be removed" if dry_run else "removed"
    for plan in plans:
        what = f"version {plan.version}" if plan.version is not None else "the whole model"
        out.print(escape(f"{plan.model}: {what} {would} ({filesize.decimal(plan.bytes)})"))
    if len(plans) > 1:
        total = filesize.decimal(sum(plan.bytes for plan in plans))
        out.print(f"together: {total}")
