"""``serve --launcher``: the options, and the command that serves a repository in a container."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from delugeserve.cli.render.console import err_console, out, print_json
from delugeserve.errors import UsageError
from delugeserve.serving.front.security import Security

Launcher = Literal["docker", "podman"]
LauncherOption = Annotated[
    Optional[Launcher],  # noqa: UP045 - typer reads this at run time, on Python 3.10 too
    typer.Option(help="With --dry-run: print the command that serves in a container."),
]
Image = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(metavar="IMAGE", help="With --launcher: another image than the chosen one."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="With --launcher: print the command, start nothing.")
]


def print_container_command(
    launcher: Launcher | None,
    repository: Path,
    names: Sequence[str] | None,
    *,
    host: str,
    ports: Mapping[str, int | None],
    image: str | None,
    security: Security,
    dry_run: bool,
    json: bool,
) -> None:
    """Print what to type to serve a repository in a container.

    Args:
        launcher: the program that runs containers.
        repository: the model repository.
        names: the models to serve; None for all.
        host: the address to publish the ports on.
        ports: port by endpoint; None leaves one out.
        image: an image to run instead of the chosen one.
        security: TLS and authentication.
        dry_run: must be set: nothing is started.
        json: print JSON.

    Raises:
        UsageError: the options do not fit together, or other machines could reach the server
            unguarded.
        RepositoryError: there is no repository, or no model in it.
        PlanError: no image is known for a plan.
    """
    from delugeserve.artifacts.served_labels import models_to_serve
    from delugeserve.serving.containers import container_command

    if launcher is None:
        raise UsageError(
            f"{'--image' if image else '--dry-run'} has no effect without --launcher.",
            "Add --launcher docker or --launcher podman.",
        )
    if not dry_run:
        raise UsageError(
            "--launcher does not start containers.",
            "Add --dry-run, and run the command that it prints.",
        )
    found = container_command(
        launcher,
        repository,
        models_to_serve(repository, names),
        host=host,
        ports=ports,
        selected=bool(names),
        image=image,
        security=security,
    )
    if json:
        print_json(
            {
                "image": found.image.name,
                "reason": found.image.reason,
                "build": list(found.build),
                "run": list(found.run),
            }
        )
        return
    err_console.print(f"Image {found.image.name}: {found.image.reason}.", markup=False)
    if found.build:
        err_console.print("Build it in a checkout of delugeserve.", markup=False)
        out.print(shlex.join(found.build), markup=False, soft_wrap=True)
    lines = [shlex.join(found.run[:2]), *map(shlex.quote, found.run[2:])]
    out.print(" \\\n    ".join(lines), markup=False, soft_wrap=True)
