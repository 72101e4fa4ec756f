"""``delugeserve versions``: the versions of the models in a repository."""

from __future__ import annotations

from delugeserve.cli.options import DEFAULT_REPOSITORY, Json, OptionalStoredModel, Repository
from delugeserve.cli.render.console import print_json, print_next


def command(
    model: OptionalStoredModel = None,
    repository: Repository = DEFAULT_REPOSITORY,
    json: Json = False,
) -> None:
    """List the versions in a repository: which is served, precision, error, classes, size."""
    from delugeserve.artifacts.repository import repository_option
    from delugeserve.artifacts.versions import list_versions
    from delugeserve.cli.render.versions import describe_versions, print_versions

    found = list_versions(repository, model)
    if json:
        print_json(describe_versions(found))
        return
    print_versions(found)
    others = [one for one in found if not one.served and one.fault is None]
    if others:
        newest = others[-1]
        option = repository_option(repository)
        print_next(f"delugeserve promote {newest.model} {newest.version}{option}")
