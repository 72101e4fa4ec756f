"""``delugeserve doctor``: check machine, installation, server and repository."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from delugeserve.cli.options import DEFAULT_REPOSITORY, Json, with_default
from delugeserve.cli.render.console import print_json
from delugeserve.cli.render.findings import print_findings
from delugeserve.cli.render.progress import show_progress


def command(
    repository: Annotated[
        Path | None,
        typer.Option(
            "--repository",
            help=with_default("Triton model repository.", "model_repository, if it exists"),
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Check the machine, the installation, the installed Triton and the model repository.

    The exit status is 1 if there is a problem. Warnings do not change it.
    """
    from delugeserve.artifacts.repository import list_names
    from delugeserve.doctor import diagnose

    if repository is not None:
        list_names(repository)  # an error if it does not exist, as it was given
    with show_progress() as progress:
        findings = diagnose(repository or DEFAULT_REPOSITORY, progress)
    if json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        print_findings(findings)
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(1)
