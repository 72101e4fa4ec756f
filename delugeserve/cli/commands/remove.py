"""``delugeserve remove``: delete a version that is not served, or a whole model."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from delugeserve.cli.options import (
    DEFAULT_REPOSITORY,
    Json,
    Repository,
    StoredModelName,
    VersionNumber,
    Yes,
)
from delugeserve.cli.render.console import print_json, print_next


def command(
    model: StoredModelName,
    version: Annotated[
        VersionNumber,
        typer.Argument(
            metavar="[VERSION]",
            help="Version to delete; without it, the whole model.",
            show_default=False,
        ),
    ] = None,
    repository: Repository = DEFAULT_REPOSITORY,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Delete a version that is not served, or a whole model.

    Without --yes it prints what would be deleted. The version that is served and the canary are
    refused.
    """
    from delugeserve.artifacts.removal import plan_removal, remove
    from delugeserve.artifacts.repository import repository_option
    from delugeserve.cli.render.versions import (
        describe_removals,
        print_removals,
        versions_in_use,
    )

    in_use = versions_in_use(repository)
    plans = [(remove if yes else plan_removal)(repository, model, version, in_use)]
    if json:
        print_json(describe_removals(plans, dry_run=not yes))
        return
    print_removals(plans, dry_run=not yes)
    if not yes:
        what = shlex.quote(model) if version is None else f"{shlex.quote(model)} {version}"
        print_next(f"delugeserve remove {what} --yes{repository_option(repository)}")
