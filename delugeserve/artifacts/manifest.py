"""The manifest of an exported version: ``manifest.json``, read and written by this module alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delugeserve.artifacts.interface import INPUT, Precision
from delugeserve.artifacts.preprocessing import preprocessing_of
from delugeserve.artifacts.records import (
    EvidenceRecord,
    FileRecord,
    Origin,
    PlanDetails,
    Quantisation,
    SumFormChoice,
    Verification,
)
from delugeserve.artifacts.typed_json import from_json, to_json
from delugeserve.errors import RepositoryError
from delugeserve.system.files import atomic_write, sha256
from delugeserve.zoo import ModelSpec, Task

FILE_NAME = "manifest.json"
EVIDENCE = "evidence.npz"
SCHEMA_VERSION = 6

ARTIFACT = "artifact"
"""Key of :attr:`Manifest.digest` in the parameters of config.pbtxt."""

_NOT_DECISIVE = frozenset({EVIDENCE, "generated.pbtxt", FILE_NAME})
_WITHOUT_DIGEST = 5  # the schema before; what it lacks follows from the task


@dataclass(frozen=True)
class Manifest:
    """What an exported version is, where it comes from, and how it was verified.

    Attributes:
        model: name in the repository.
        trained: False for an untrained network.
        checkpoint: where the weights come from.
        network: its architecture and task, with the class names, without the paper's figures.
        backend: Triton's name of the backend.
        precision: what the artefact computes in.
        sum_form: how weighted sums are written.
        artefact: name of the file that the backend loads.
        max_batch_size: most images in one batch.
        preprocessing: digest of how an image becomes the input, see
            :class:`delugeserve_client.preprocessing.Preprocessing`.
        quantisation: None unless the precision is int8.
        verification: the newest one, by the export or by ``delugeserve verify``.
        export_verification: the one by the export; None until ``delugeserve verify`` has replaced
            it in ``verification``.
        evidence: what is kept to verify the version again.
        engine: details of a TensorRT plan; None for other artefacts.
        speed: shortest time of a batch on the exporting machine, in milliseconds, by precision and
            batch size; empty if it could not be run there.
        files: every file of the version but the manifest, by name.
        environment: versions and machine of the export.
        seconds: duration of each stage of the export.
        created: UTC, ISO 8601.
        schema_version: version of this layout.
    """

    model: str
    trained: bool
    checkpoint: Origin
    network: ModelSpec
    backend: str
    precision: Precision
    sum_form: SumFormChoice
    artefact: str
    max_batch_size: int
    preprocessing: str
    quantisation: Quantisation | None
    verification: Verification
    export_verification: Verification | None
    evidence: EvidenceRecord
    engine: PlanDetails | None
    speed: Mapping[str, Mapping[int, float]]
    files: Mapping[str, FileRecord]
    environment: Mapping[str, str]
    seconds: Mapping[str, float]
    created: str
    schema_version: int = SCHEMA_VERSION

    def verified_again(self, verification: Verification) -> Manifest:
        """Return the manifest with a newer verification; the export's is kept."""
        first = self.export_verification or self.verification
        return dataclasses.replace(self, verification=verification, export_verification=first)

    @property
    def artefact_bytes(self) -> int:
        """Size of the version without its evidence."""
        return sum(file.bytes for name, file in self.files.items() if name != EVIDENCE)

    @property
    def digest(self) -> str:
        """What identifies the artefact; see :func:`artefact_digest`."""
        return artefact_digest({name: file.sha256 for name, file in self.files.items()})

    @property
    def optimal_batch_size(self) -> int | None:
        """The batch size that a plan is tuned for; None for other artefacts."""
        return self.engine.profile[INPUT].opt[0] if self.engine else None

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as plain JSON values."""
        values: dict[str, Any] = to_json(self)
        return values

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` into a version's folder, atomically.

        Raises:
            OSError: the folder cannot be written.
        """
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False)
        with atomic_write(folder / FILE_NAME) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json`` from a version's folder.

    Raises:
        RepositoryError: it is missing, damaged, or of another schema.
    """
    path = folder / FILE_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RepositoryError(
            f"{folder} is not an exported version: {FILE_NAME} cannot be read "
            f"({error.strerror or error}).",
            "Give the folder of a version, such as model_repository/delugenet38/1.",
        ) from error
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    found = values.get("schema_version") if isinstance(values, dict) else None
    if found == _WITHOUT_DIGEST:
        values, found = _add_digest(path, values), SCHEMA_VERSION
    if isinstance(found, int) and found != SCHEMA_VERSION:
        other = "an older" if found < SCHEMA_VERSION else "a newer"
        raise RepositoryError(
            f"{path} was written by {other} release of delugeserve: its schema version is {found}, "
            f"and this release reads {SCHEMA_VERSION}.",
            "Export the model again with this release."
            if found < SCHEMA_VERSION
            else "Use a newer release of delugeserve, or export the model again with this one.",
        )
    try:
        return from_json(Manifest, values)
    except ValueError as error:
        raise _damaged(path, str(error)) from error


def _add_digest(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest of schema 5 as one of schema 6, which has the preprocessing's digest."""
    try:
        task = from_json(Task, values["network"]["task"])
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, str(error)) from error
    digest = preprocessing_of(task).digest
    return {**values, "preprocessing": digest, "schema_version": SCHEMA_VERSION}


def find_manifest(folder: Path, version: int | None) -> Manifest | None:
    """Read the manifest of a model's version; None if there is none that this release can read.

    Args:
        folder: the model's folder.
        version: number of the version; None for a model without versions.
    """
    try:
        return read_manifest(folder / str(version))
    except RepositoryError:
        return None


def check_files(folder: Path, manifest: Manifest) -> None:
    """Check that a version's files are those that were exported.

    Raises:
        RepositoryError: one is missing or was changed.
    """
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise RepositoryError(f"{path} is missing.", _RESTORE)
        if sha256(path) != expected.sha256:
            raise RepositoryError(f"{path} has changed since it was exported.", _RESTORE)


def describe_files(paths: Iterable[Path]) -> dict[str, FileRecord]:
    """Return size and SHA-256 of files, by name."""
    return {path.name: FileRecord(path.stat().st_size, sha256(path)) for path in paths}


def artefact_digest(sums: Mapping[str, str]) -> str:
    """Return the first 16 hex digits of the SHA-256 of what decides a version's answers.

    That is the artefact's files and the class names. How the version was verified and how it is
    served are left out.

    Args:
        sums: SHA-256 of the version's files, by name.
    """
    decisive = {name: sums[name] for name in sums if name not in _NOT_DECISIVE}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


_RESTORE = "Copy the version again from where it was exported, or export the model again."


def _damaged(path: Path, reason: str) -> RepositoryError:
    return RepositoryError(f"{path} is damaged ({reason}).", _RESTORE)
