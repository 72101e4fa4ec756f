"""Verifying a published version again: where it will run, or after it was moved there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from delugeserve.artifacts.interface import Infer
from delugeserve.artifacts.manifest import Manifest, check_files, read_manifest
from delugeserve.errors import (
    DelugeServeError,
    RepositoryError,
    UnwrittenError,
)
from delugeserve.runtimes import choose_backend
from delugeserve.runtimes.base import Backend, load_runs
from delugeserve.verification.evidence import read_evidence
from delugeserve.verification.gate import batch_sizes, examine, require_passed


def load_version(folder: Path) -> tuple[Manifest, Infer]:
    """Load a version to run it in this process, as it will be served.

    Args:
        folder: the version's.

    Returns:
        Its manifest, and how to run it.

    Raises:
        RepositoryError: there is no version, or its runtime cannot load it.
        MissingExtraError: its runtime is not installed.
    """
    manifest = read_manifest(folder)
    backend, _ = choose_backend(manifest.backend)
    artefact, precision = folder / manifest.artefact, manifest.precision
    with _loading(backend, artefact):
        return manifest, backend.load(artefact, precision)


def verify_version(
    folder: Path, infer: Infer | None = None, *, machine: str | None = None
) -> Manifest:
    """Put a version through the gate again, and write what came out into its manifest.

    Neither the checkpoint nor torch is needed: the images and the network's answers lie beside the
    artefact.

    Args:
        folder: the version's.
        infer: how to run it, such as through a server; None loads it in this process.
        machine: where it runs then; None means here.

    Returns:
        The manifest, as it was written.

    Raises:
        RepositoryError: there is no version, its files have changed, or its runtime cannot load it.
        MissingExtraError: its runtime is not installed.
        RejectedError: a check failed; the manifest says so from now on, if it can be written.
        UnwrittenError: every check passed, and the manifest cannot be written.
        UsageError: ``infer`` raised it; the manifest stays as it was.
    """
    manifest = read_manifest(folder)
    precision = manifest.precision
    check_files(folder, manifest)
    evidence = read_evidence(folder, manifest.verification.images)
    computed_in = None
    if infer is not None:
        runs = {precision: infer}
    else:
        backend, _ = choose_backend(manifest.backend)
        artefact = folder / manifest.artefact
        with _loading(backend, artefact):
            runs = load_runs(backend, artefact, precision)
            computed_in = backend.executed_precisions(artefact, precision).get("Convolution")
    verification = examine(
        runs,
        evidence,
        precision=precision,
        sizes=batch_sizes(manifest.max_batch_size, manifest.optimal_batch_size),
        trained=manifest.trained,
        computed_in=computed_in,
        quantised=len(manifest.quantisation.layers) if manifest.quantisation else None,
    )
    if machine is not None:
        verification = dataclasses.replace(verification, machine=machine)
    manifest = dataclasses.replace(manifest, verification=verification)
    unwritten: OSError | None = None
    try:
        manifest.write(folder)
    except OSError as error:
        unwritten = error
    unsaid = f"; {folder} cannot be written, so its manifest does not say this" if unwritten else ""
    remedy = f"Export the model again, on the machine it is for{unsaid}."
    require_passed(verification, manifest, remedy)
    if unwritten:
        raise UnwrittenError(
            f"Every check passed, and {folder} cannot be written to say so: "
            f"{unwritten.strerror or unwritten}.",
            "Verify it as a user who may write there.",
            manifest,
        ) from unwritten
    return manifest


@contextmanager
def _loading(backend: Backend, artefact: Path) -> Iterator[None]:
    """Say in a sentence what a runtime refuses."""
    try:
        yield
    except DelugeServeError:
        raise
    except Exception as error:  # the runtimes' errors have no base in common
        raise RepositoryError(
            f"{backend.title} cannot load {artefact}.", "Export the model again."
        ) from error
