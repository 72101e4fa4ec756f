"""``delugeserve tune``: find the fastest settings of a served model under load, and write them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from delugeserve.cli.options import (
    DEFAULT_REPOSITORY,
    Json,
    Plot,
    Repository,
    StoredModelName,
    parse_counts,
    with_default,
)
from delugeserve.cli.render.console import err_console, print_json, print_warning
from delugeserve.cli.render.progress import show_progress
from delugeserve.cli.render.versions import print_running
from delugeserve.plotting import check_picture_path, save_figure
from delugeserve.system import hardware

_LOAD = "Load"
_SPACE = "What is tried"
_BUSY = 0.5  # load average of an idle machine, for each core, at most


def command(
    model: StoredModelName,
    latency_budget: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="Latency that requests must keep, such as 50ms.",
            show_default=False,
        ),
    ],
    objective: Annotated[
        Literal["rate", "throughput"],
        typer.Option(
            help="What is maximised. rate: the rate of random arrivals at which requests keep the "
            "budget. throughput: images/s when all requests are there at once; only a request "
            "without others must keep the budget.",
        ),
    ] = "rate",
    trials: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of trials, earlier ones included.")
    ] = 20,
    percentile: Annotated[
        float,
        typer.Option(
            min=1,
            max=99.99,
            help="Percentage of the requests that must keep the budget.",
            rich_help_panel=_LOAD,
        ),
    ] = 99.0,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images per request.", rich_help_panel=_LOAD)
    ] = 1,
    duration: Annotated[
        float,
        typer.Option(
            min=0.5,
            metavar="SECONDS",
            help="Least time of each load test.",
            rich_help_panel=_LOAD,
        ),
    ] = 5.0,
    versions: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help=with_default(
                "Versions to try, such as 1,3: other backends or precisions. The best is promoted.",
                "the one that is served",
            ),
            show_default=False,
            rich_help_panel=_SPACE,
        ),
    ] = None,
    replicas: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Numbers of servers to try side by side, such as 1,2: 'serve --active'.",
            rich_help_panel=_SPACE,
        ),
    ] = "1",
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help=with_default(
                "Folder that keeps the trials, where the same command resumes.", "tuning/MODEL"
            ),
            show_default=False,
        ),
    ] = None,
    plot: Plot = None,
    repository: Repository = DEFAULT_REPOSITORY,
    write: Annotated[
        bool,
        typer.Option("--write/--no-write", help="Write the best settings into config.pbtxt."),
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be tried, and try nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Find the settings with which a server runs a model fastest here, and write them.

    Each trial serves the model with other settings (instances, threads, pinning, queue delay and
    preferred batches), and puts it under load by the rules of MLPerf LoadGen. The best settings are
    measured again beside those that the model has, and written if they are ahead each time by more
    than can be resolved. Nothing else should run on this machine.

    Run the same command again to resume after an interruption; raise --trials to go on.
    """
    from delugeserve.cli.render.tuning import draw_trials, print_plan, print_result
    from delugeserve.load.budget import parse_budget
    from delugeserve.tuning import plan_tuning, tune
    from delugeserve.tuning.measure import LoadSettings, Objective

    output = output or Path("tuning") / model
    picture = plot or output / "trials.png"
    check_picture_path(picture)
    plan = plan_tuning(
        repository,
        model,
        output=output,
        load=LoadSettings(
            Objective(objective),
            parse_budget(latency_budget),
            percentile / 100,
            batch_size,
            duration,
        ),
        trials=trials,
        versions=parse_counts("--versions", versions) if versions else None,
        replicas=parse_counts("--replicas", replicas),
    )
    if plan.hindered:
        print_warning(
            "The queue has a limit, a timeout or priorities, with which Triton may pause for half "
            "a second. To remove them before tuning, use: delugeserve configure "
            f"{model} --queue-size 0 --queue-timeout 0 --no-client-timeout --priorities 0"
        )
    cores = hardware.usable_cores()
    if (load := os.getloadavg()[0]) > _BUSY * cores:
        print_warning(
            f"This machine is busy: its load average is {load:.1f} on {cores} cores. Trials will "
            "differ by that more than by their settings."
        )
    if dry_run:
        print_json(_describe(plan)) if json else print_plan(plan)
        return
    signal.signal(signal.SIGTERM, _end)
    try:
        with show_progress(animate=False) as progress:
            result = tune(plan, write=write, progress=progress)
    except (KeyboardInterrupt, SystemExit):
        err_console.print(
            f"Finished trials are kept in {output}. Run the same command to resume.", markup=False
        )
        raise
    save_figure(draw_trials(result), picture)
    if json:
        print_json({**result.as_json(), "plot": str(picture)})
    else:
        print_result(result)
    err_console.print(f"written to {picture}", markup=False)
    if result.written:
        print_running(repository, changed=True)


def _end(number: int, _frame: object) -> None:
    """End the command, so that the server is stopped and its files are removed."""
    raise SystemExit(128 + number)


def _describe(plan: Any) -> dict[str, Any]:
    from delugeserve.artifacts.typed_json import to_json

    return {
        **plan.options,
        **plan.facts,
        "space": to_json(plan.space),
        "before": to_json(plan.before),
        "trials": plan.trials,
        "candidates": plan.space.size,
        "folder": str(plan.output),
        "dry_run": True,
    }
