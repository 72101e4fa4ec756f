"""``delugeserve rollback``: serve the version that was served before."""

from __future__ import annotations

from delugeserve.cli.options import (
    DEFAULT_REPOSITORY,
    DryRun,
    Json,
    Repository,
    StoredModelName,
    Wait,
)
from delugeserve.cli.render.console import print_json
from delugeserve.cli.waiting import check_wait, wait_for_servers


def command(
    model: StoredModelName,
    repository: Repository = DEFAULT_REPOSITORY,
    dry_run: DryRun = False,
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Serve the version that was served before, or end the model's canary.

    Rolling back again goes one version further back. What you wrote into config.pbtxt stays.
    """
    from delugeserve.artifacts.promotion import plan_rollback, rollback
    from delugeserve.cli.render.versions import describe_promotion, print_promotion

    check_wait(repository, wait=wait, dry_run=dry_run)
    plan = (plan_rollback if dry_run else rollback)(repository, model)
    if json:
        print_json(describe_promotion(plan, dry_run=dry_run))
    else:
        print_promotion(plan, repository, dry_run=dry_run, wait=wait)
    if wait:
        wait_for_servers(repository)
