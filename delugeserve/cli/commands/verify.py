"""``delugeserve verify``: puts a published version through the gate on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delugeserve.artifacts.references import recognise
from delugeserve.cli.render.console import err_console, print_json
from delugeserve.cli.render.verification import check_report_path, print_verification, write_report
from delugeserve.errors import RejectedError, UnwrittenError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from delugeserve.artifacts.interface import Infer, Outputs


def command(
    version: Annotated[
        Path, typer.Argument(help="Folder of a version, or of a model for the one it serves.")
    ],
    url: Annotated[
        str | None, typer.Option(help="Run it through the server at this address.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page with plots to this HTML file.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """Verify an exported version where it will run.

    The images and the network's answers lie beside the artefact: neither checkpoint nor torch nor
    onnx is needed. What comes out is written into the version's manifest.
    """
    check_report_path(report)
    folder = Path(recognise(str(version), {"version"}).value)
    from delugeserve.artifacts.manifest import read_manifest
    from delugeserve.verification.verify import verify_version

    failure: RejectedError | UnwrittenError | None = None
    version_number = folder.resolve().name
    with (
        _served(url, read_manifest(folder).model, version_number) as infer,
        err_console.status("verifying"),
    ):
        try:
            manifest = verify_version(folder, infer, machine=url and f"the server at {url}")
        except (RejectedError, UnwrittenError) as error:
            failure, manifest = error, error.manifest
    if json:
        print_json(manifest.to_json())
    else:
        print_verification(manifest)
    write_report(manifest, report)
    if failure:
        raise failure


@contextmanager
def _served(url: str | None, model: str, version: str) -> Iterator[Infer | None]:
    """How to run a version through a server; None if there is no server to ask."""
    if url is None:
        yield None
        return
    from delugeserve.artifacts.interface import LOGITS, PROBABILITIES
    from delugeserve_client import Classifier, ModelUnavailable, ServerUnavailable

    with Classifier(url, model, model_version=version) as classifier:

        def infer(images: NDArray[np.uint8]) -> Outputs:
            try:
                return (
                    classifier.infer(images, output=LOGITS),
                    classifier.infer(images, output=PROBABILITIES),
                )
            except (ServerUnavailable, ModelUnavailable) as error:  # tells nothing of the artefact
                raise UsageError(error.problem, error.remedy) from error

        yield infer
