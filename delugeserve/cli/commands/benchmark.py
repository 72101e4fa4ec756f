"""``delugeserve benchmark``: latency and throughput of a served model."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delugeserve.cli.options import check_output_file, parse_counts
from delugeserve.cli.render.console import err_console, out, print_json, print_table
from delugeserve.errors import UsageError
from delugeserve.plotting import check_suffix
from delugeserve.system.hardware import cpu_model, describe, usable_cores

if TYPE_CHECKING:
    from delugeserve_client.benchmark import Measurement
    from delugeserve_client.preprocessing import Pixels


def command(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Model name on the server.",
            show_default="the server's only model",
        ),
    ] = None,
    url: Annotated[
        str, typer.Option(help="The server: localhost:8001 or http://localhost:8000.")
    ] = "localhost:8001",
    protocol: Annotated[
        str | None, typer.Option(help="grpc or http, where the URL does not say.")
    ] = None,
    concurrency: Annotated[str, typer.Option(help="Requests in flight, a list.")] = "1,4,16",
    batch_size: Annotated[str, typer.Option(help="Images in a request, a list.")] = "1,16",
    duration: Annotated[float, typer.Option(min=0.1, help="Seconds measured for each pair.")] = 10,
    warmup: Annotated[float, typer.Option(min=0, help="Seconds of load before that.")] = 2,
    image: Annotated[
        Path | None, typer.Option(help="Send this image instead of random pixels.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Write the figures to this CSV file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw latency against throughput to this PNG or SVG file.")
    ] = None,
) -> None:
    """Measure a served model's latency and throughput in a closed loop."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from delugeserve_client.address import parse_address
    from delugeserve_client.benchmark import measure
    from delugeserve_client.report import require_matplotlib, save_plot, write_csv
    from delugeserve_client.transport import open_transport

    workers = parse_counts("--concurrency", concurrency)
    sizes = parse_counts("--batch-size", batch_size)
    if protocol not in (None, "grpc", "http"):
        raise typer.BadParameter("choose grpc or http", param_hint="--protocol")
    # Whatever can go wrong with the files goes wrong before the measurement, not after it.
    for path in (csv, plot):
        if path is not None:
            check_output_file(path)
    if plot is not None:
        check_suffix(plot)
        require_matplotlib()
    address = parse_address(url, protocol)
    transport = open_transport(address, timeout=30)
    try:
        served = transport.connect(model)
        version = transport.call("get_server_metadata").get("version", "")
    finally:
        transport.close()
    pixels: Pixels | None = served.preprocessing(image)[None] if image is not None else None
    machine = _machine(str(version))

    # The bar moves between measurements only: a thread that draws it would disturb them.
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        console=err_console,
        auto_refresh=False,
        transient=True,
        disable=not err_console.is_terminal,
    ) as progress:
        task = progress.add_task("", total=len(workers) * len(sizes))
        started = 0

        def on_start(images: int, in_flight: int) -> None:
            nonlocal started
            description = f"measuring batch {images}, {in_flight} in flight"
            progress.update(task, description=description, completed=started)
            started += 1
            if err_console.is_terminal:
                progress.refresh()
            else:
                err_console.print(description)

        measurements = measure(
            url,
            served.name,
            protocol=address.protocol,
            concurrency=workers,
            batch_sizes=sizes,
            duration=duration,
            warmup=warmup,
            images=pixels,
            on_start=on_start,
        )
    if json:
        from dataclasses import asdict

        figures = [asdict(measurement) for measurement in measurements]
        print_json({"url": str(address), "machine": machine, "measurements": figures})
    else:
        _print_table(measurements, machine, f"{served.name} at {address}, {duration:g} s each")
    try:
        if csv is not None:
            write_csv(measurements, csv)
            err_console.print(f"figures written to {csv}", soft_wrap=True)
        if plot is not None:
            save_plot(measurements, plot, subtitle=describe())
            err_console.print(f"plot written to {plot}", soft_wrap=True)
    except OSError as error:
        raise UsageError(f"The figures cannot be written: {error}.", "Free some space.") from error
    if any(measurement.errors for measurement in measurements):
        raise typer.Exit(1)


def _machine(server_version: str) -> dict[str, Any]:
    from importlib.metadata import version

    try:
        memory: float | None = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):  # not every platform tells
        memory = None
    return {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "memory_gib": memory and round(memory, 1),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "tritonclient": version("tritonclient"),
        "triton": server_version,
    }


def _print_table(measurements: list[Measurement], machine: dict[str, Any], title: str) -> None:
    out.print(
        f"client's machine: {machine['cpu']}, {machine['cores']} cores,"
        f" {machine['memory_gib']} GiB, {machine['platform']}, Python {machine['python']},"
        f" tritonclient {machine['tritonclient']}; server: Triton {machine['triton']}",
        highlight=False,
    )
    print_table(
        ("batch", "in flight", "images/s", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "errors"),
        (
            (
                *_pair(m),
                f"{m.images_per_s:.0f}",
                *_format((m.p50_ms, m.p90_ms, m.p95_ms, m.p99_ms)),
                f"[red]{m.errors}[/]" if m.errors else "0",
            )
            for m in measurements
        ),
        title=title,
        texts=0,
    )
    print_table(
        ("batch", "in flight", "queue", "input", "infer", "output", "executed batch"),
        (
            (
                *_pair(m),
                *_format((m.queue_ms, m.compute_input_ms, m.compute_infer_ms, m.compute_output_ms)),
                f"{m.executed_batch:.1f}",
            )
            for m in measurements
        ),
        title="of which the server, mean ms a request",
        texts=0,
    )


def _pair(measurement: Measurement) -> tuple[str, str]:
    return str(measurement.batch_size), str(measurement.concurrency)


def _format(times: Iterable[float]) -> list[str]:
    return [f"{time:.2f}" for time in times]
