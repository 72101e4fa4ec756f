"""``delugeserve classify``: label images, from one to very many."""

from __future__ import annotations

import logging
import warnings
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from delugeserve.bulk.choices import Decode, EngineName, FormatName
from delugeserve.cli.options import (
    DEFAULT_URL,
    Json,
    ServedModelName,
    Timeout,
    check_output_file,
    is_given,
    with_default,
)
from delugeserve.cli.render.console import print_json
from delugeserve.errors import UsageError

if TYPE_CHECKING:
    from delugeserve.bulk.engines import Engine

_log = logging.getLogger(__name__)


def command(
    context: typer.Context,
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATHS",
            help="Images, folders, globs, tar or parquet shards, URLs such as s3://bucket/photos; "
            "- reads a list of them from standard input.",
            show_default=False,
        ),
    ],
    model: ServedModelName = None,
    url: Annotated[
        list[str],
        typer.Option(
            "--url",
            help="Server address: localhost:8001 for gRPC, http://localhost:8000 for HTTP. Repeat "
            "it for several servers.",
        ),
    ] = [DEFAULT_URL],  # noqa: B006 - typer reads it
    top_k: Annotated[int, typer.Option(min=1, help="Number of classes per image.")] = 5,
    threshold: Annotated[
        Optional[float],  # noqa: UP045 - typer reads this at run time, on Python 3.10 too
        typer.Option(min=0, max=1, help="Leave out classes that are less probable."),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write a row per image to this .jsonl, .csv or .parquet file.",
        ),
    ] = None,
    format_: Annotated[
        Optional[FormatName],  # noqa: UP045
        typer.Option("--format", help="Format of the output, whatever its suffix."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an incomplete --output.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an --output that exists.")
    ] = False,
    timeout: Timeout = 30,
    max_pixels: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, metavar="N", help="Refuse images with more pixels."),
    ] = None,
    decode: Annotated[
        Decode,
        typer.Option(help="Who decodes images: this machine, the server, or the faster one."),
    ] = "auto",
    in_process: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--in-process",
            metavar="VERSION",
            help="Run an exported version in this process instead of asking a server: its folder "
            "or its model's.",
        ),
    ] = None,
    engine_name: Annotated[
        EngineName,
        typer.Option("--engine", help="Classify from this process, or on a Ray cluster."),
    ] = "local",
    workers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1,
            metavar="N",
            help="With --engine ray: processes that classify at once.",
        ),
    ] = None,
    ray_address: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--ray-address",
            metavar="ADDRESS",
            help=with_default("With --engine ray: the cluster, such as auto.", "this machine"),
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Classify images with a running server.

    Results are printed, or written to --output, as they come. An image that cannot be read has a
    row with the reason, and does not stop the others; the exit status is then 2.

    --resume continues a run that stopped, for whatever reason. Its output is then the same as if it
    had not stopped.
    """
    from delugeserve.bulk.engines import InProcess, open_labeller
    from delugeserve.bulk.engines.client import Endpoint
    from delugeserve.bulk.engines.ray_cluster import Cluster, OnCluster
    from delugeserve.bulk.interrupts import interrupts_raised
    from delugeserve.bulk.job import Counts
    from delugeserve.bulk.journal import Request
    from delugeserve.bulk.output_file import open_output
    from delugeserve.bulk.outputs import format_of
    from delugeserve.cli.labelling import (
        Images,
        describe_counts,
        print_rows,
        summary,
        write_file,
    )

    _check_options(context, in_process is not None, engine_name, decode)
    # Pillow warns of damage that it can repair. What it cannot read is an error.
    warnings.filterwarnings("ignore", module="PIL")
    images = Images(paths, output)
    counts = Counts()
    cluster = Cluster(ray_address, workers) if engine_name == "ray" else None
    endpoint = Endpoint(
        tuple(url), model, "", timeout, decode, max_pixels, full_requests=output is not None
    )

    def engine(version: str | None = None, *, pin: bool) -> Engine:
        if in_process is not None:
            return InProcess.find(in_process, version, max_pixels)
        return endpoint.pin(version) if pin else endpoint

    if output is None:
        form = _printed_format(format_, resume, overwrite, json)
        if cluster is not None:
            raise UsageError("--engine ray needs --output.", "Add --output FILE.")
        # What prints the version of the model in each row keeps to that version.
        pin = form in ("jsonl", "csv")
        print_rows(
            images,
            lambda: engine(pin=pin),
            counts,
            form=form,
            top_k=top_k,
            threshold=threshold,
        )
    else:
        if resume and overwrite:
            raise UsageError("--resume and --overwrite cannot be combined.", "Use one of them.")
        output = output.resolve() if output.is_symlink() else output
        form = format_of(output, format_)
        check_output_file(output)
        with (
            interrupts_raised(),
            open_output(output, form, resume=resume, overwrite=overwrite) as file,
        ):
            if file.complete:
                _log.info(
                    "%s exists already, and is not incomplete. It was not compared with this "
                    "command. Use --overwrite to write it again.",
                    output,
                )
                if json:
                    print_json(summary(output, None, None))
                return
            images.check()
            begun = file.state.request.model.version if file.state else None
            chosen = engine(begun, pin=True)
            with closing(open_labeller(chosen)) as labeller:
                request = Request(
                    tuple(paths),
                    form,
                    min(top_k, labeller.classes),
                    threshold,
                    max_pixels,
                    chosen.decode if isinstance(chosen, Endpoint) else "client",
                    engine_name,
                    labeller.model,
                )
                labels = labeller if cluster is None else OnCluster(chosen, cluster)
                write_file(file, request, images, labels, counts)
        if json:
            print_json(summary(output, counts, request.model))
    _log.info("%s", describe_counts(counts, threshold))
    if counts.refused:
        raise typer.Exit(2)


def _check_options(
    context: typer.Context, in_process: bool, engine: EngineName, decode: Decode
) -> None:
    """Check that no option is without effect.

    Raises:
        UsageError: one is.
    """
    given = [name for name in ("url", "model", "timeout") if is_given(context, name)]
    if decode == "server":
        given.append("decode server")
    if in_process and given:
        raise UsageError(f"--{given[0]} has no effect with --in-process.", "Leave it out.")
    for name in ("workers", "ray_address"):
        if engine != "ray" and is_given(context, name):
            option = name.replace("_", "-")
            raise UsageError(
                f"--{option} has no effect without --engine ray.",
                "Add --engine ray, or leave it out.",
            )


def _printed_format(
    name: FormatName | None, resume: bool, overwrite: bool, json: bool
) -> FormatName:
    """Return how rows are printed.

    Raises:
        UsageError: an option has no effect without ``--output``, or needs it.
    """
    for option, given in (("--resume", resume), ("--overwrite", overwrite)):
        if given:
            raise UsageError(f"{option} has no effect without --output.", "Add --output FILE.")
    if name == "parquet":
        raise UsageError("Parquet cannot be printed.", "Add --output FILE.parquet.")
    if json and name not in (None, "json"):
        raise UsageError(f"--json and --format {name} cannot be combined.", "Use one of them.")
    return "json" if json else name or "table"
