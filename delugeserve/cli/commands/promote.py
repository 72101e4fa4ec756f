"""``delugeserve promote``: serve another version of a model, to all requests or to a share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from delugeserve.cli.options import (
    DEFAULT_REPOSITORY,
    DryRun,
    Json,
    Repository,
    StoredModelName,
    VersionNumber,
    Wait,
    with_default,
)
from delugeserve.cli.render.console import err_console, out, print_json, print_next
from delugeserve.cli.waiting import check_wait, wait_for_servers
from delugeserve.errors import UsageError


def command(
    model: StoredModelName,
    version: Annotated[
        VersionNumber,
        typer.Argument(
            metavar="[VERSION]",
            help=with_default("Version to serve.", "that of the canary, otherwise the newest"),
            show_default=False,
        ),
    ] = None,
    share: Annotated[
        str | None,
        typer.Option(
            metavar="PERCENT",
            help="Make it the canary: it gets this share of the requests, such as 5%. Promote it "
            "again without --share for all of them, or end it with 'rollback'.",
        ),
    ] = None,
    replace_classes: Annotated[
        bool,
        typer.Option("--replace-classes", help="Serve a version with other classes than now."),
    ] = False,
    repository: Repository = DEFAULT_REPOSITORY,
    dry_run: DryRun = False,
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Serve another version of a model, with the whole configuration of that version.

    What you wrote into config.pbtxt stays, as on an export. A running server starts the version
    beside the old one, proves it, and then switches.
    """
    from delugeserve.artifacts.promotion import plan_promotion, promote
    from delugeserve.cli.render.versions import describe_promotion, print_promotion

    check_wait(repository, wait=wait, dry_run=dry_run)
    if share is not None:
        if dry_run:
            raise UsageError("--dry-run does not go with --share.", "Leave one of them out.")
        _set_canary(repository, model, version, _parse_share(share), json=json)
        if wait:
            wait_for_servers(repository)
        return
    act = plan_promotion if dry_run else promote
    plan = act(repository, model, version, replace_classes=replace_classes)
    if json:
        print_json(describe_promotion(plan, dry_run=dry_run))
    else:
        print_promotion(plan, repository, dry_run=dry_run, wait=wait)
    if wait:
        wait_for_servers(repository)


def _parse_share(text: str) -> float:
    try:
        if not text.endswith("%"):
            raise ValueError
        return float(text.removesuffix("%")) / 100
    except ValueError:
        raise UsageError(
            f"--share '{text}' is not a percentage.", "Use a value such as --share 5%."
        ) from None


def _set_canary(
    repository: Path, model: str, version: int | None, share: float, *, json: bool
) -> None:
    from delugeserve.artifacts.promotion import set_canary
    from delugeserve.artifacts.repository import repository_option
    from delugeserve.artifacts.typed_json import to_json
    from delugeserve.cli.render.versions import format_share, running_servers

    canary = set_canary(repository, model, version, share)
    if json:
        print_json(to_json(canary))
        return
    part, option = format_share(canary.share), repository_option(repository)
    out.print(f"{canary.model}: version {canary.version} gets {part} of the requests", markup=False)
    if running_servers(repository):
        print_next(f"delugeserve status --watch{option}")
    else:
        print_next(f"delugeserve serve{option}")
    err_console.print(
        f"For all requests: delugeserve promote {model}{option}. "
        f"To end it: delugeserve rollback {model}{option}",
        markup=False,
    )
