"""``delugeserve benchmark``: latency and throughput of a served model, by MLPerf's rules."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from delugeserve.cli.load_tests import (
    ScenarioName,
    check_outputs,
    choose_scenario,
    refuse_unused,
    write_outputs,
)
from delugeserve.cli.options import (
    DEFAULT_REPOSITORY,
    DEFAULT_URL,
    Csv,
    Json,
    Plot,
    Timeout,
    complete_models,
    parse_counts,
    parse_rates,
    with_default,
)
from delugeserve.cli.render.benchmark import (
    ClientMachine,
    print_audit,
    print_rows,
    print_trial,
    print_waterfall,
)
from delugeserve.cli.render.console import out, print_json
from delugeserve.cli.render.progress import show_progress
from delugeserve.system.hardware import describe

if TYPE_CHECKING:
    from delugeserve.load import RateResult, Settings

_log = logging.getLogger(__name__)

_LOAD, _RULES, _FILES = "The load", "What is asked of the server", "Output"
_WHERE = "Where the time goes"


def command(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help=with_default("Model name on the server.", "the server's only model"),
            show_default=False,
            autocompletion=complete_models,
        ),
    ] = None,
    url: Annotated[
        str,
        typer.Option(
            "--url",
            "-u",
            help="Server address: localhost:8001 for gRPC, http://localhost:8000 for HTTP.",
        ),
    ] = DEFAULT_URL,
    protocol: Annotated[
        Literal["grpc", "http"] | None,
        typer.Option("--protocol", "-i", hidden=True),  # the URL's scheme tells
    ] = None,
    scenario: Annotated[
        ScenarioName | None,
        typer.Option(
            help=with_default(
                "How requests arrive: a fixed number in flight, or a scenario of MLPerf LoadGen.",
                "closed-loop, or server with a budget or a rate",
            ),
            show_default=False,
            rich_help_panel=_LOAD,
        ),
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(
            "--batch-size",
            "-b",
            metavar="LIST",
            help=with_default(
                "Images per request: a list (1,8,32) or a range START:STOP:STEP (1:16:4).",
                "1; closed-loop: 1,16; offline: the model's maximum",
            ),
            show_default=False,
            rich_help_panel=_LOAD,
        ),
    ] = None,
    concurrency: Annotated[
        str,
        typer.Option(
            "--concurrency",
            "--concurrency-range",
            metavar="LIST",
            help="Requests in flight, for closed-loop: a list or a range.",
            rich_help_panel=_LOAD,
        ),
    ] = "1,4,16",
    rate: Annotated[
        str | None,
        typer.Option(
            "--rate",
            "--request-rate-range",
            metavar="LIST",
            help="Requests per second, for server: a list or a range. Valid are those that keep "
            "--latency-budget, or 100 ms.",
            show_default=False,
            rich_help_panel=_LOAD,
        ),
    ] = None,
    streams: Annotated[
        int,
        typer.Option(min=1, help="Images per query, for multi-stream.", rich_help_panel=_LOAD),
    ] = 8,
    duration: Annotated[
        float,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="Least time of each measurement.",
            rich_help_panel=_LOAD,
        ),
    ] = 10,
    measurement_interval: Annotated[
        float | None,
        typer.Option(
            "--measurement-interval", "-p", min=100, metavar="MS", hidden=True
        ),  # perf_analyzer's name for --duration
    ] = None,
    warmup: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Time to send requests before each measurement.",
            rich_help_panel=_LOAD,
        ),
    ] = 2,
    image: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=with_default("Image to send.", "random pixels"),
            show_default=False,
            rich_help_panel=_LOAD,
        ),
    ] = None,
    repeats: Annotated[
        int,
        typer.Option(
            min=1,
            help="Measure this many times; the table then has 95 % confidence intervals. A search "
            "takes none.",
            rich_help_panel=_LOAD,
        ),
    ] = 1,
    latency_budget: Annotated[
        str | None,
        typer.Option(
            "--latency-budget",
            "--latency-threshold",
            "-l",
            metavar="TIME",
            help="Find the highest rate at which the latency stays below this, such as 50ms.",
            show_default=False,
            rich_help_panel=_RULES,
        ),
    ] = None,
    percentile: Annotated[
        float,
        typer.Option(
            help="Percentile of the latency that must keep the budget.", rich_help_panel=_RULES
        ),
    ] = 99,
    precision: Annotated[
        float,
        typer.Option(
            min=0.005,
            max=1,
            help="How near the found rate must be to the lowest one that fails, as a share.",
            rich_help_panel=_RULES,
        ),
    ] = 0.05,
    audit: Annotated[
        bool,
        typer.Option(
            "--audit",
            help="Look for a cache: measure with ever new images, and with a single one.",
            rich_help_panel=_RULES,
        ),
    ] = False,
    waterfall: Annotated[
        bool,
        typer.Option(
            "--waterfall",
            help="Serve a model of --repository, and measure what each step from the engine to the "
            "client's result adds to the time of one image.",
            rich_help_panel=_WHERE,
        ),
    ] = False,
    repository: Annotated[
        Path,
        typer.Option(help="Triton model repository, for --waterfall.", rich_help_panel=_WHERE),
    ] = DEFAULT_REPOSITORY,
    timeout: Timeout = 30,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Keep LoadGen's log files in this folder.",
            show_default=False,
            rich_help_panel=_FILES,
        ),
    ] = None,
    json: Json = False,
    csv: Csv = None,
    filename: Annotated[Path | None, typer.Option("-f", hidden=True)] = None,
    plot: Plot = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a report to this HTML file."),
    ] = None,
) -> None:
    """Measure a served model's latency and throughput.

    Without a scenario, a fixed number of requests is kept in flight. With --latency-budget, the
    highest rate of random arrivals is found at which the model keeps it; latency then counts from
    when a request was scheduled, not from when it was sent. Answers are checked while they are
    timed.
    """
    from delugeserve.load import Plan, prepare_target
    from delugeserve.load.budget import parse_budget

    budget = parse_budget(latency_budget) if latency_budget is not None else None
    if measurement_interval is not None:
        duration = measurement_interval / 1e3
    chosen = choose_scenario(scenario, budget=budget is not None, rate=rate is not None)
    search = chosen == "server" and rate is None
    refuse_unused(context, chosen, waterfall=waterfall, search=search)
    in_flight = parse_counts("--concurrency", concurrency)
    rates = parse_rates("--rate", rate) if rate is not None else []
    sizes = parse_counts("--batch-size", batch_size) if batch_size is not None else []
    settings = _settings(chosen, duration, warmup, percentile, streams, budget)
    csv = csv or filename
    check_outputs(csv, plot, html, output)
    _require_extra(chosen)
    if waterfall:
        _waterfall(repository, model, duration, image, json=json, html=html)
        return
    target = prepare_target(_address(url, protocol), model, images=image, timeout=timeout)
    machine = ClientMachine.here(target.server_version)
    plan = Plan(
        target,
        settings,
        batch_sizes=tuple(sizes),
        in_flight=tuple(in_flight),
        rates=tuple(rates),
        repeats=repeats,
        precision=precision,
        audit=audit,
        output=output,
    )
    # A bar that is redrawn ten times a second would take CPU time from the client it measures.
    with show_progress(animate=False) as progress:
        report = plan.measure(progress, on_trial=print_trial)
    title = f"{target.model} at {target.url}, {duration:g} s per test"
    if chosen == "server":
        title += f", p{percentile:g} within {settings.latency_budget * 1e3:g} ms"
    if json:
        facts = {"url": target.url, "machine": dataclasses.asdict(machine)}
        print_json({**facts, **report.as_json()})
    else:
        print_rows(report.rows, machine, title)
        if report.found is not None:
            _print_found(report.found)
        if report.audit is not None:
            print_audit(report.audit)
    write_outputs(report.rows, csv, plot, html, title=title, machine=str(machine))
    if not report.valid:
        raise typer.Exit(1)


def _waterfall(
    repository: Path,
    model: str | None,
    duration: float,
    image: Path | None,
    *,
    json: bool,
    html: Path | None,
) -> None:
    from delugeserve.cli.waterfall import measure_waterfall

    with show_progress(animate=False) as progress:
        name, steps = measure_waterfall(
            repository, model, duration=duration, image=image, progress=progress
        )
    if json:
        print_json({"model": name, "steps": [dataclasses.asdict(step) for step in steps]})
    else:
        print_waterfall(name, steps)
    if html is not None:
        from delugeserve.load.report import write_report

        write_report([], html, title=f"{name}: one image", machine=describe(), steps=steps)
        _log.info("Wrote %s.", html)


def _settings(
    scenario: ScenarioName,
    duration: float,
    warmup: float,
    percentile: float,
    streams: int,
    budget: float | None,
) -> Settings:
    from delugeserve.load import Scenario, Settings

    more: dict[str, Any] = {} if budget is None else {"latency_budget": budget}
    return Settings(
        Scenario(scenario),
        duration=duration,
        warmup=warmup,
        percentile=percentile / 100,
        streams=streams,
        **more,
    )


def _require_extra(scenario: ScenarioName) -> None:
    """Find what is not installed before the server is asked."""
    from delugeserve.system.imports import require

    loadgen = [] if scenario == "closed-loop" else ["mlperf_loadgen"]
    for module in ("hdrh.histogram", "hpack", *loadgen):
        require(module, "benchmark")


def _address(url: str, protocol: Literal["grpc", "http"] | None) -> str:
    from delugeserve_client.address import parse_address

    return str(parse_address(url, protocol))


def _print_found(found: RateResult) -> None:
    best = found.best
    out.print(
        f"\n[bold]{best.model} keeps p{best.percentile * 100:g} <= {best.budget_ms:g} ms up to "
        f"{found.rate:,.4g} requests/s[/] ({best.images_per_s:,.4g} images/s), with p"
        f"{best.percentile * 100:g} {best.at_percentile_ms:.2f} ms."
    )
