"""``delugeserve benchmark``: latency and throughput of a served model."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from delugeserve.cli.options import (
    DEFAULT_URL,
    Csv,
    Json,
    Plot,
    ServedModelName,
    Timeout,
    Url,
    check_output_file,
    parse_counts,
    with_default,
)
from delugeserve.cli.render.benchmark import ClientMachine, print_measurements
from delugeserve.cli.render.console import print_json
from delugeserve.cli.render.progress import show_progress
from delugeserve.errors import Failure
from delugeserve.plotting import check_suffix
from delugeserve.system.hardware import describe

if TYPE_CHECKING:
    from delugeserve_client import Measurement
    from delugeserve_client.preprocessing import Pixels

_log = logging.getLogger(__name__)


def command(
    model: ServedModelName = None,
    url: Url = DEFAULT_URL,
    protocol: Annotated[
        Literal["grpc", "http"] | None,
        typer.Option(hidden=True),  # the URL's scheme tells
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(
            "--batch-size",
            metavar="LIST",
            help=with_default(
                "Images per request: a list (1,8,32) or a range START:STOP:STEP (1:16:4).",
                "1,16, or 1 and the model's maximum if that is less",
            ),
            show_default=False,
        ),
    ] = None,
    concurrency: Annotated[
        str,
        typer.Option(metavar="LIST", help="Numbers of requests in flight: a list or a range."),
    ] = "1,4,16",
    duration: Annotated[
        float,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="Measurement time for each combination of batch size and concurrency.",
        ),
    ] = 10,
    warmup: Annotated[
        float,
        typer.Option(
            min=0, metavar="SECONDS", help="Time to send requests before each measurement."
        ),
    ] = 2,
    image: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help=with_default("Image to send.", "random pixels"), show_default=False
        ),
    ] = None,
    timeout: Timeout = 30,
    json: Json = False,
    csv: Csv = None,
    plot: Plot = None,
) -> None:
    """Measure a served model's latency and throughput.

    Every batch size is measured at every concurrency: --duration plus --warmup seconds for each.
    """
    from delugeserve_client.address import parse_address
    from delugeserve_client.benchmark import measure
    from delugeserve_client.transport import open_transport

    in_flight = parse_counts("--concurrency", concurrency)
    batch_sizes = parse_counts("--batch-size", batch_size) if batch_size is not None else None
    _check_outputs(csv, plot)
    address = parse_address(url, protocol)
    transport = open_transport(address, timeout)
    try:
        served = transport.connect(model)
        server_version = transport.call("get_server_metadata").get("version", "")
    finally:
        transport.close()
    pixels: Pixels | None = served.preprocessing(image)[None] if image is not None else None
    machine = ClientMachine.here(str(server_version))

    # A bar that is redrawn ten times a second would take CPU time from the client it measures.
    with show_progress(animate=False) as progress:
        measurements = measure(
            url,
            served.name,
            protocol=address.protocol,
            concurrency=in_flight,
            batch_sizes=batch_sizes,
            duration=duration,
            warmup=warmup,
            images=pixels,
            timeout=timeout,
            progress=progress,
        )
    if json:
        print_json(
            {
                "url": str(address),
                "machine": dataclasses.asdict(machine),
                "measurements": [measurement.rounded() for measurement in measurements],
            }
        )
    else:
        print_measurements(
            measurements, machine, f"{served.name} at {address}, {duration:g} s per row"
        )
    _write_outputs(measurements, csv, plot)
    if any(measurement.errors for measurement in measurements):
        raise typer.Exit(1)


def _check_outputs(csv: Path | None, plot: Path | None) -> None:
    """Find what would prevent the files before the measurement, not after it."""
    from delugeserve_client.report import import_matplotlib

    for path in (csv, plot):
        if path is not None:
            check_output_file(path)
    if plot is not None:
        check_suffix(plot)
        import_matplotlib()


def _write_outputs(measurements: list[Measurement], csv: Path | None, plot: Path | None) -> None:
    from delugeserve_client.report import save_plot, write_csv

    try:
        if csv is not None:
            write_csv(measurements, csv)
            _log.info("Wrote %s.", csv)
        if plot is not None:
            save_plot(measurements, plot, subtitle=describe())
            _log.info("Wrote %s.", plot)
    except OSError as error:
        raise Failure(
            f"Cannot write {error.filename or 'the file'}: {error.strerror or error}.",
            "Free some space or choose another folder, and measure again.",
        ) from error
