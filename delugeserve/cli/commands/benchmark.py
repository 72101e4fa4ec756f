"""``delugeserve benchmark``: latency and throughput of a served model, by MLPerf's rules."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from delugeserve.cli.load_tests import (
    ScenarioName,
    Work,
    as_json,
    ask_server,
    default_sizes,
    write_outputs,
)
from delugeserve.cli.options import (
    DEFAULT_REPOSITORY,
    DEFAULT_URL,
    Csv,
    Json,
    Plot,
    Timeout,
    check_output_file,
    complete_models,
    parse_counts,
    with_default,
)
from delugeserve.cli.render.benchmark import (
    ClientMachine,
    print_audit,
    print_rows,
    print_waterfall,
)
from delugeserve.cli.render.console import out, print_json
from delugeserve.cli.render.progress import show_progress
from delugeserve.errors import UsageError
from delugeserve.plotting import check_picture_path
from delugeserve.system.hardware import describe

if TYPE_CHECKING:
    from delugeserve.load import RateResult, Settings
    from delugeserve.load.audit import CacheAudit

_log = logging.getLogger(__name__)

_LOAD, _RULES, _FILES = "The load", "What is asked of the server", "Output"
_WHERE = "Where the time goes"


def command(
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
            help="Requests per second, for server: a list or a range.",
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
            help="Measure this many times; the table then has 95 % confidence intervals.",
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
    highest rate of random arrivals is found at which the model keeps it. Latency counts from when
    a request was scheduled. Answers are checked while they are timed.
    """
    from delugeserve.load import prepare_target
    from delugeserve.load.budget import parse_budget

    budget = parse_budget(latency_budget) if latency_budget is not None else None
    if measurement_interval is not None:
        duration = measurement_interval / 1e3
    chosen = _choose_scenario(scenario, budget, rate)
    in_flight = parse_counts("--concurrency", concurrency)
    rates = parse_counts("--rate", rate) if rate is not None else []
    sizes = parse_counts("--batch-size", batch_size) if batch_size is not None else None
    settings = _settings(chosen, duration, warmup, percentile, streams, budget)
    csv = csv or filename
    _check_outputs(csv, plot, html, output)
    _require_extra(chosen)
    if waterfall:
        _waterfall(repository, model, duration, image, json=json, html=html)
        return
    address = _address(url, protocol)
    pixels, largest = ask_server(address, model, timeout, image)
    sizes = sizes or default_sizes(chosen, largest)
    if chosen == "multi-stream":
        sizes = [streams]
    target = prepare_target(address, model, batch_size=max(sizes), images=pixels, timeout=timeout)
    machine = ClientMachine.here(target.server_version)
    work = Work(target, settings, repeats, output, precision)
    found: RateResult | None = None
    audits: list[CacheAudit] = []
    # A bar that is redrawn ten times a second would take CPU time from the client it measures.
    with show_progress(animate=False) as progress:
        if chosen == "server" and not rates:
            found = work.find(sizes, progress)
            rows = work.rows_of(found)
        else:
            rows = work.measure(sizes, in_flight, rates, progress)
        if audit:
            audits = [work.audit(progress)]
    title = f"{target.model} at {target.url}, {duration:g} s per test"
    if json:
        print_json(as_json(target, machine, rows, found, audits))
    else:
        print_rows(rows, machine, title)
        if found is not None:
            _print_found(found)
        for each in audits:
            print_audit(each)
    write_outputs(rows, csv, plot, html, title=title, machine=str(machine))
    if not (found or all(row.valid for row in rows)) or any(each.suspicious for each in audits):
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


def _choose_scenario(
    scenario: ScenarioName | None, budget: float | None, rate: str | None
) -> ScenarioName:
    if scenario is None:
        return "server" if budget is not None or rate is not None else "closed-loop"
    if scenario != "server" and (budget is not None or rate is not None):
        option = "--latency-budget" if budget is not None else "--rate"
        raise UsageError(
            f"{option} is for the server scenario, not for {scenario}.",
            f"Leave out {option}, or use --scenario server.",
        )
    if scenario == "server" and budget is None and rate is None:
        raise UsageError(
            "The server scenario needs a budget or a rate.",
            "Use --latency-budget 50ms to find the highest rate that keeps it, or --rate 100.",
        )
    return scenario


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


def _check_outputs(
    csv: Path | None, plot: Path | None, html: Path | None, output: Path | None
) -> None:
    """Find what would prevent the files before the measurement, not after it."""
    for path in (csv, plot, html):
        if path is not None:
            check_output_file(path)
    if plot is not None:
        check_picture_path(plot)
    if html is not None and html.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"A report is written as HTML, not to {html}.", "Use a name in .html.")
    if output is not None and output.exists() and not output.is_dir():
        raise UsageError(f"{output} is not a folder.", "Use another --output.")


def _print_found(found: RateResult) -> None:
    best = found.best
    out.print(
        f"\n[bold]{best.model} keeps p{best.percentile * 100:g} <= {best.budget_ms:g} ms up to "
        f"{found.rate:,.4g} requests/s[/] ({best.images_per_s:,.4g} images/s), with p"
        f"{best.percentile * 100:g} {best.at_percentile_ms:.2f} ms."
    )
