"""``delugeserve verify``: verify an exported version again, on this machine or through a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delugeserve.artifacts.references import resolve_version
from delugeserve.cli.options import Json
from delugeserve.cli.render.console import out, print_json
from delugeserve.cli.render.progress import show_progress
from delugeserve.cli.render.verification import (
    check_report_path,
    describe_evidence,
    print_verification,
    write_report,
)
from delugeserve.errors import ParityError, RepositoryError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from delugeserve.artifacts.interface import Infer, Outputs
    from delugeserve.artifacts.manifest import Manifest
    from delugeserve.verification.evidence import DataEvidence


def command(
    version: Annotated[
        str,
        typer.Argument(
            help="Exported version, model folder for its served version, or name of a model in "
            "./model_repository.",
            show_default=False,
        ),
    ],
    url: Annotated[
        str | None,
        typer.Option(help="Run it through the server at this address.", show_default="run it here"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="The data set that it was exported with.",
            show_default="the images that are kept in the version",
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a report with plots to this HTML file.")
    ] = None,
    json: Json = False,
) -> None:
    """Verify an exported version where it will run.

    The network's logits are in the version, with a few crops of photographs, so neither the
    checkpoint nor torch is needed. The result is written into the version's manifest.
    """
    check_report_path(report)
    folder = resolve_version(version)
    from delugeserve.artifacts.manifest import read_manifest
    from delugeserve.verification.verify import verify_version

    manifest = read_manifest(folder)
    with show_progress() as progress, _served(url, manifest.model, folder.resolve().name) as infer:
        images = None
        if data is not None:
            progress.stage("read images")
            images = _load_images(data, folder, manifest)
        progress.stage("verify")
        machine = f"the server at {url}" if url else None
        outcome = verify_version(folder, infer, images=images, machine=machine)
    if json:
        print_json(outcome.manifest.to_json())
    else:
        print_verification(outcome.manifest)
        out.print(f"kept to verify again: {describe_evidence(outcome.manifest.evidence)}")
    write_report(outcome.manifest, report)
    unwritten = outcome.unwritten and f"{folder} cannot be written: {outcome.unwritten}."
    if not outcome.passed:
        from delugeserve.verification.gate import describe_failure

        raise ParityError(
            describe_failure(outcome.manifest.verification),
            "Export the model again on this machine, or serve this version where it passes."
            + (f" The manifest does not have this result: {unwritten}" if unwritten else ""),
        )
    if unwritten:
        raise RepositoryError(
            f"Every check passed, but the manifest does not have this result: {unwritten}",
            "Verify as a user who may write there.",
        )


def _load_images(data: str, folder: Path, manifest: Manifest) -> NDArray[np.uint8]:
    """Return the images of a data set that the version was verified on, and maybe others."""
    from delugeserve.verification.evidence import read_evidence

    evidence = read_evidence(folder, manifest.evidence).data
    if evidence is None:
        raise UsageError(
            f"{folder} was verified on photographs only, so it has no logits for --data.",
            "Leave --data out, or export the model again with --data.",
        )
    return _find_images(data, manifest, evidence)


def _find_images(data: str, manifest: Manifest, evidence: DataEvidence) -> NDArray[np.uint8]:
    from delugeserve.data.datasets import load_images

    dataset, count = manifest.network.dataset, len(evidence.digests)
    images = load_images(data, "test", dataset, limit=count).images
    found = evidence.find(images)
    if (found is None or len(found.images) < count) and dataset.fits_memory:
        return load_images(data, "test", dataset).images  # the same images in another order
    return images


@contextmanager
def _served(url: str | None, model: str, version: str) -> Iterator[Infer | None]:
    """Return how to run a version through a server; None without one."""
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
            except (ServerUnavailable, ModelUnavailable) as error:  # not the artefact's fault
                raise UsageError(error.problem, error.remedy) from error

        yield infer
