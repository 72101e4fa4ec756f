"""``delugeserve verify``: verify an exported version again, on this machine or through a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from delugeserve.artifacts.manifest import FILE_NAME
from delugeserve.artifacts.references import resolve_version
from delugeserve.cli.options import DEFAULT_REPOSITORY, Json, Repository, with_default
from delugeserve.cli.render.console import err_console, out, print_json
from delugeserve.cli.render.progress import show_progress
from delugeserve.cli.render.verification import (
    check_report_path,
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
            metavar="VERSION",
            help="Folder of an exported version, folder of a model for the version it serves, or "
            "name of a model in --repository.",
            show_default=False,
        ),
    ],
    url: Annotated[
        str | None,
        typer.Option(
            help="Verify it through the server at this address, such as localhost:8001, instead "
            "of loading it in this process."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help=with_default(
                "Data set that it was verified on at the export, to compare those test images too.",
                "only the images stored in the version",
            )
        ),
    ] = None,
    repository: Repository = DEFAULT_REPOSITORY,
    report: Annotated[
        Path | None, typer.Option(help="Write a report with plots to this HTML file.")
    ] = None,
    json: Json = False,
) -> None:
    """Verify an exported version on the machine that serves it.

    The version stores a few crops of photographs with PyTorch's logits, so neither the checkpoint
    nor PyTorch is needed. The result is added to manifest.json; the one by the export is kept.
    Exits with status 1 if a check fails.
    """
    check_report_path(report)
    folder = resolve_version(version, repository)
    from delugeserve.artifacts.manifest import read_manifest
    from delugeserve.verification.verify import verify_version

    manifest = read_manifest(folder)
    with show_progress() as progress, _served(url, manifest.model, folder.resolve().name) as served:
        infer, centred = served
        images = None
        if data is not None:
            progress.stage("read images")
            images = _load_images(data, folder, manifest)
        progress.stage("verify")
        machine = f"the server at {url}" if url else None
        outcome = verify_version(folder, infer, images=images, machine=machine, centred=centred)
    if json:
        print_json(outcome.manifest.to_json())
    else:
        _print(folder, outcome.manifest, recorded=not outcome.unwritten)
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


def _print(folder: Path, manifest: Manifest, *, recorded: bool) -> None:
    verification, evidence = manifest.verification, manifest.evidence
    what = f"{folder} ({manifest.backend}, {manifest.precision}), run on {verification.machine}"
    out.print(escape(what))
    print_verification(manifest)
    first = manifest.export_verification
    if recorded and first is not None:
        err_console.print(
            escape(
                f"Recorded in {folder / FILE_NAME}, next to the export's verification "
                f"({first.status}, on {first.images})."
            )
        )
    if evidence.data is not None and verification.comparisons:
        compared = max(row.num_images for row in verification.comparisons)
        if compared <= evidence.probe_images:
            err_console.print(
                escape(f"To verify on the {evidence.data_images} {evidence.data} too, add --data.")
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

    task, count = manifest.network.task, len(evidence.digests)
    images = load_images(data, "test", task, limit=count).images
    found = evidence.find(images)
    if (found is None or len(found.images) < count) and task.fits_memory:
        return load_images(data, "test", task).images  # the same images in another order
    return images


@contextmanager
def _served(url: str | None, model: str, version: str) -> Iterator[tuple[Infer | None, bool]]:
    """Return how to run a version through a server, or None, and whether its logits are centred."""
    if url is None:
        yield None, False
        return
    from delugeserve.artifacts.interface import LOGITS, PROBABILITIES
    from delugeserve.verification.served import centred_logits
    from delugeserve_client import Classifier, ModelUnavailable, ServerUnavailable

    with Classifier(url, model, model_version=version) as classifier:
        offers_logits = LOGITS in classifier.model.outputs

        def infer(images: NDArray[np.uint8]) -> Outputs:
            try:
                probabilities = classifier.infer(images, output=PROBABILITIES)
                if not offers_logits:
                    return centred_logits(probabilities), probabilities
                return classifier.infer(images, output=LOGITS), probabilities
            except (ServerUnavailable, ModelUnavailable) as error:  # not the artefact's fault
                raise UsageError(error.problem, error.remedy) from error

        yield infer, not offers_logits
