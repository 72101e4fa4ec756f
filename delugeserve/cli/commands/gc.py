"""``delugeserve gc``: delete old versions."""

from __future__ import annotations

from typing import Annotated

import typer

from delugeserve.cli.options import DEFAULT_REPOSITORY, Json, Repository, Yes
from delugeserve.cli.render.console import err_console, print_json, print_next


def command(
    keep: Annotated[
        int, typer.Option(min=0, help="Number of the newest versions of each model to keep.")
    ] = 3,
    repository: Repository = DEFAULT_REPOSITORY,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Delete old versions of all models.

    Without --yes it prints what would be deleted. The version that is served, the canary, and the
    version that 'rollback' would serve are always kept.
    """
    from delugeserve.artifacts.removal import collect, plan_gc
    from delugeserve.artifacts.repository import repository_option
    from delugeserve.cli.render.versions import describe_removals, print_removals, versions_in_use

    plans = (collect if yes else plan_gc)(repository, keep, versions_in_use(repository))
    if json:
        print_json(describe_removals(plans, dry_run=not yes))
        return
    print_removals(plans, dry_run=not yes)
    if not plans:
        err_console.print("There is nothing to delete.")
    elif not yes:
        print_next(f"delugeserve gc --keep {keep} --yes{repository_option(repository)}")
