"""Verifying an exported version again: on the machine that will serve it, or through a server."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.interface import Infer
from delugeserve.artifacts.manifest import Manifest, check_files, read_manifest
from delugeserve.artifacts.model_config import FILE_NAME as CONFIG
from delugeserve.artifacts.model_config import read_config
from delugeserve.artifacts.served_labels import check_served_labels, served_versions
from delugeserve.errors import DelugeServeError, RepositoryError, reason_of
from delugeserve.runtimes import choose_backend
from delugeserve.runtimes.base import Backend, load_runs
from delugeserve.verification.evidence import read_evidence
from delugeserve.verification.gate import batch_sizes, verify
from delugeserve.verification.served import centred_evidence


@dataclass(frozen=True)
class VerificationOutcome:
    """The result of verifying a version.

    Attributes:
        manifest: the version's manifest with the new verification.
        unwritten: why the manifest could not be written; None if it was.
    """

    manifest: Manifest
    unwritten: str | None = None

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return self.manifest.verification.status == "passed"


def load_version(folder: Path) -> tuple[Manifest, Infer]:
    """Load a version to run it in this process, in the precision that is served.

    Args:
        folder: the version's folder.

    Returns:
        Its manifest, and a function that runs it.

    Raises:
        RepositoryError: there is no version, or its runtime cannot load it.
        MissingExtraError: its runtime is not installed.
    """
    manifest = read_manifest(folder)
    backend, _ = choose_backend(manifest.backend)
    artefact = folder / manifest.artefact
    with _explain_loading(backend, artefact):
        return manifest, backend.load(artefact, manifest.precision)


def verify_version(
    folder: Path,
    infer: Infer | None = None,
    *,
    images: NDArray[np.uint8] | None = None,
    machine: str | None = None,
    centred: bool = False,
) -> VerificationOutcome:
    """Verify a version again, and add the result to its manifest.

    The verification by the export is kept in the manifest, since it may be on more images.

    Neither the checkpoint nor torch is needed: the network's logits lie next to the artefact, with
    a few crops of photographs. The images of the data set that the version was verified on are
    compared too if they were kept, or are given.

    Args:
        folder: the version's folder.
        infer: runs the version, for example through a server; None loads it in this process.
        images: images of that data set, uint8 ``[N, H, W, 3]``, in any order. Those that the
            version was verified on are found by their SHA-256.
        machine: where ``infer`` runs; None for this machine.
        centred: ``infer`` returns centred logits, as the server offers probabilities alone; see
            :mod:`delugeserve.verification.served`.

    Returns:
        The result, passed or failed.

    Raises:
        RepositoryError: there is no version, its files have changed, its runtime cannot load it, or
            it is served with the labels of another version.
        DatasetError: the version was verified on none of ``images``.
        MissingExtraError: its runtime is not installed.
        UsageError: ``infer`` raised it; the manifest stays as it was.
    """
    manifest = read_manifest(folder)
    precision = manifest.precision
    check_files(folder, manifest)
    _check_labels(folder.resolve())
    evidence = read_evidence(folder, manifest.evidence).select(images)
    if centred:
        evidence = centred_evidence(evidence)
    computed_in = None
    if infer is not None:
        runs = {precision: infer}
    else:
        backend, _ = choose_backend(manifest.backend)
        artefact = folder / manifest.artefact
        with _explain_loading(backend, artefact):
            runs = load_runs(backend, artefact, precision)
            computed_in = backend.executed_precisions(artefact, precision).get("Convolution")
    verification = verify(
        runs,
        evidence,
        precision=precision,
        sizes=batch_sizes(manifest.max_batch_size, manifest.optimal_batch_size),
        trained=manifest.trained,
        class_names=manifest.network.task.class_names,
        computed_in=computed_in,
        quantised=len(manifest.quantisation.layers) if manifest.quantisation else None,
    )
    manifest = manifest.verified_again(
        dataclasses.replace(
            verification,
            machine=machine or verification.machine,
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
    )
    try:
        manifest.write(folder)
    except OSError as error:
        return VerificationOutcome(manifest, error.strerror or str(error))
    return VerificationOutcome(manifest)


def _check_labels(folder: Path) -> None:
    model = folder.parent
    if (model / CONFIG).is_file() and folder.name.isdecimal():
        config = read_config(model)
        if int(folder.name) in served_versions(model, config):
            check_served_labels(model, config)


@contextmanager
def _explain_loading(backend: Backend, artefact: Path) -> Iterator[None]:
    """Turn whatever a runtime raises while it loads an artefact into a RepositoryError."""
    try:
        yield
    except DelugeServeError:
        raise
    except Exception as error:  # the runtimes' errors have no common base
        raise RepositoryError(
            f"{backend.title} cannot load {artefact}: {reason_of(error)}",
            f"Install the {backend.title} version that the manifest lists under environment, or "
            "export the model again on this machine.",
        ) from error
