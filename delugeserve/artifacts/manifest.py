"""The manifest: what a published version is, where it came from, and the proof of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delugeserve.artifacts.interface import INPUT
from delugeserve.errors import RepositoryError
from delugeserve.system.files import atomic_write, sha256

FILE_NAME = "manifest.json"
EVIDENCE = "evidence.npz"
SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Manifest:
    """What lies beside an artefact as ``manifest.json``.

    Attributes:
        model: name in the repository.
        trained: False for an untrained, seeded network.
        checkpoint: where the weights came from, their training data and metrics.
        network: the model's numbers.
        backend: Triton's name of the backend.
        precision: what it computes in.
        sum_form: how weighted sums are written, and the milliseconds of a batch of eight in each
            form, where they were measured.
        artefact: name of the file that the backend loads.
        max_batch_size: the most images of one batch.
        quantisation: of int8, how it was calibrated and which layers it holds; else None.
        verification: what was checked, where and on what, and the figures; see
            :class:`delugeserve.verification.gate.Verification`.
        engine: what a plan is good for; see
            :class:`delugeserve.runtimes.plan_details.PlanDetails`. Empty for other artefacts.
        speed: milliseconds of a batch on the machine of the export, by batch size, of the artefact
            and of the same backend in fp32; empty where it could not be run.
        files: size in bytes and SHA-256 of every file of the artefact.
        environment: versions and machine of the export.
        seconds: duration of each stage.
        created: UTC, ISO 8601.
        schema_version: of this layout.
    """

    model: str
    trained: bool
    checkpoint: Mapping[str, Any]
    network: Mapping[str, Any]
    backend: str
    precision: str
    sum_form: Mapping[str, Any]
    artefact: str
    max_batch_size: int
    quantisation: Mapping[str, Any] | None
    verification: Mapping[str, Any]
    engine: Mapping[str, Any]
    speed: Mapping[str, Mapping[str, float]]
    files: Mapping[str, Mapping[str, Any]]
    environment: Mapping[str, str]
    seconds: Mapping[str, float]
    created: str
    schema_version: int = SCHEMA_VERSION

    @property
    def artefact_bytes(self) -> int:
        """Size of what the backend loads."""
        return sum(file["bytes"] for name, file in self.files.items() if name != EVIDENCE)

    @property
    def optimal_batch_size(self) -> int | None:
        """The batch that a plan was tuned for; None of other artefacts."""
        profile = self.engine.get("profile")
        best: int | None = profile[INPUT]["opt"][0] if profile else None
        return best

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` into a folder: beside its place, then renamed."""
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)
        with atomic_write(folder / FILE_NAME) as beside:
            beside.write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json`` from a version's folder.

    Raises:
        RepositoryError: it is missing, damaged, or of another release.
    """
    path = folder / FILE_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RepositoryError(
            f"{folder} is not an exported version: {FILE_NAME} cannot be read.",
            "Give a folder such as model_repository/delugenet38/1.",
        ) from error
    try:
        if values["schema_version"] != SCHEMA_VERSION:
            raise ValueError
        return Manifest(**values)
    except (TypeError, KeyError, ValueError) as error:
        raise RepositoryError(
            f"{path} was written by another release of delugeserve.", "Export the model again."
        ) from error


def check_files(folder: Path, manifest: Manifest) -> None:
    """Check that a version's files are still those that were written.

    Raises:
        RepositoryError: one is missing or has changed.
    """
    for name, written in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise RepositoryError(f"{path} is missing.", "Export the model again.")
        if sha256(path) != written["sha256"]:
            raise RepositoryError(
                f"{path} has changed since it was exported.", "Export the model again."
            )


def describe_files(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of files, by name."""
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths}
