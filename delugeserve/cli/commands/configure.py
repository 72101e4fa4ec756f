"""``delugeserve configure``: instances, queue, warm-up and cache of a served model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from delugeserve.cli.options import (
    DEFAULT_REPOSITORY,
    DryRun,
    Json,
    Repository,
    StoredModelName,
    Wait,
    parse_counts,
    parse_microseconds,
)
from delugeserve.cli.render.console import err_console, out, print_json, print_table, print_warning
from delugeserve.cli.render.versions import print_running
from delugeserve.cli.waiting import check_wait, wait_for_servers
from delugeserve.errors import UsageError

_QUEUE = "Queue"
_LIMITS = "Rate limiter"


def command(
    model: StoredModelName,
    instances: Annotated[
        int | None, typer.Option(min=1, help="Number of instances, on each device.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=0, help="Threads of an instance; 0 divides the cores among them."),
    ] = None,
    cpu_pinning: Annotated[
        bool | None,
        typer.Option(
            "--cpu-pinning/--no-cpu-pinning",
            help="Keep each thread on one core; openvino only.",
            show_default=False,
        ),
    ] = None,
    warm_up: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Batch sizes to run before the model is ready, such as 1,64; 'none' for none.",
        ),
    ] = None,
    response_cache: Annotated[
        bool | None,
        typer.Option(
            "--response-cache/--no-response-cache",
            help="Answer equal requests from the server's cache.",
            show_default=False,
        ),
    ] = None,
    preferred_batches: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Batch sizes that the batcher aims at, such as 8,16; 'none' for none.",
            rich_help_panel=_QUEUE,
        ),
    ] = None,
    queue_delay: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="How long the batcher waits for more requests, such as 2ms; 0 for not at all.",
            rich_help_panel=_QUEUE,
        ),
    ] = None,
    queue_size: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Most requests that wait; more are refused as UNAVAILABLE. 0 for no limit.",
            rich_help_panel=_QUEUE,
        ),
    ] = None,
    queue_timeout: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="How long a request may wait, such as 10s; 0 for no limit.",
            rich_help_panel=_QUEUE,
        ),
    ] = None,
    timeout_action: Annotated[
        Literal["reject", "delay"] | None,
        typer.Option(
            metavar="NAME",
            help="What happens to a request that has waited longer: reject refuses it as "
            "UNAVAILABLE, delay runs it after all others.",
            rich_help_panel=_QUEUE,
        ),
    ] = None,
    client_timeout: Annotated[
        bool | None,
        typer.Option(
            "--client-timeout/--no-client-timeout",
            help="A request may state a shorter timeout of its own.",
            show_default=False,
            rich_help_panel=_QUEUE,
        ),
    ] = None,
    priorities: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Number of priorities, 1 is the highest; 0 for none.",
            rich_help_panel=_QUEUE,
        ),
    ] = None,
    default_priority: Annotated[
        int | None,
        typer.Option(min=1, help="Priority of a request that states none.", rich_help_panel=_QUEUE),
    ] = None,
    rate_limit: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=COUNT",
            help="Resources that an instance takes while it runs, such as cores=2; several with "
            "commas; 'none' for none.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    rate_priority: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Weight of an instance that waits for resources.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    repository: Repository = DEFAULT_REPOSITORY,
    dry_run: DryRun = False,
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Change how a server runs a model, in its config.pbtxt; without options, show it.

    Comments and what else you wrote into the file stay, and the next export keeps the settings. A
    running server starts the model anew beside the old one, proves it, and then switches.
    """
    from delugeserve.artifacts.configuring import configure, plan_configuration
    from delugeserve.artifacts.serving_config import ServingConfig

    settings = ServingConfig(
        instances=instances,
        threads=threads,
        cpu_pinning=cpu_pinning,
        preferred_batch_sizes=_sizes("--preferred-batches", preferred_batches),
        queue_delay_us=parse_microseconds("--queue-delay", queue_delay),
        queue_size=queue_size,
        queue_timeout_us=parse_microseconds("--queue-timeout", queue_timeout),
        timeout_action=timeout_action,
        client_timeout=client_timeout,
        priority_levels=priorities,
        default_priority=default_priority,
        warmup_batches=_sizes("--warm-up", warm_up),
        response_cache=response_cache,
        rate_limit=_resources(rate_limit),
        rate_priority=rate_priority,
    )
    check_wait(repository, wait=wait, dry_run=dry_run)
    dry_run = dry_run or not settings.stated
    done = (plan_configuration if dry_run else configure)(repository, model, settings)
    if json:
        print_json(_describe(done, dry_run=dry_run))
    elif settings.stated:
        _print_changes(done, dry_run=dry_run)
    else:
        _print_settings(done)
    if wait:
        wait_for_servers(repository)
    elif not json:
        print_running(repository, changed=done.changed and not dry_run)


def _describe(done: Any, *, dry_run: bool) -> dict[str, Any]:
    from delugeserve.artifacts.typed_json import to_json

    return {
        "model": done.model,
        "path": str(done.path),
        "before": to_json(done.before),
        "now": to_json(done.now),
        "changes": {
            place: {"before": before, "now": now} for place, (before, now) in done.changes.items()
        },
        "lost": list(done.lost),
        "changed": done.changed and not dry_run,
        "dry_run": dry_run,
    }


def _print_changes(done: Any, *, dry_run: bool) -> None:
    if not done.changed:
        out.print(f"{done.model}: its config.pbtxt has these settings already", markup=False)
        return
    print_table(
        (f"{done.model}/config.pbtxt", "before", "now"),
        (
            (escape(place), escape(before or "-"), escape(now or "-"))
            for place, (before, now) in done.changes.items()
        ),
        texts=3,
    )
    if done.lost:
        print_warning(
            "Comments of config.pbtxt cannot be kept"
            + ("." if dry_run else f". The old file is {done.path}.before-configure.")
        )
    _warn_of_threads(done)
    _warn_of_limits(done)
    if dry_run:
        err_console.print("[dim]Dry run: nothing was changed.[/]")


def _print_settings(done: Any) -> None:
    print_table(
        ("setting", done.model),
        ((name, escape(_text(name, value))) for name, value in done.now.stated.items()),
        texts=2,
    )


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_us"):
        return f"{value / 1e6:g} s" if value >= 1_000_000 else f"{value / 1e3:g} ms"
    if isinstance(value, dict):
        return ", ".join(f"{key}={count}" for key, count in value.items()) or "none"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _warn_of_threads(done: Any) -> None:
    from delugeserve.system.hardware import usable_cores

    instances, threads, cores = done.now.instances, done.now.threads, usable_cores()
    if instances * threads > cores:
        print_warning(
            f"{instances} instances of {threads} threads take more than the {cores} cores of this "
            "machine."
        )


def _warn_of_limits(done: Any) -> None:
    from delugeserve.artifacts.serving_config import stops_prefetching

    if stops_prefetching(done.now):
        print_warning(
            "With a queue size, a queue timeout, client timeouts or priorities, Triton may pause "
            "for half a second on a busy machine, most of all with one instance. To remove them, "
            "use --queue-size 0 --queue-timeout 0 --no-client-timeout --priorities 0. To keep a "
            "limit, use --instances 2 or more."
        )


def _sizes(option: str, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    return () if text == "none" else tuple(parse_counts(option, text))


def _resources(text: str | None) -> dict[str, int] | None:
    if text is None:
        return None
    if text == "none":
        return {}
    found = {}
    for part in text.split(","):
        name, _, count = part.partition("=")
        if not name or not count.isdecimal() or int(count) < 1:
            raise UsageError(
                f"--rate-limit '{part}' is not a resource with a number from 1 up.",
                "Use a value such as --rate-limit cores=2.",
            )
        found[name] = int(count)
    return found
