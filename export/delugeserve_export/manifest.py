"""The manifest: what a published version is, where it came from, and the proof of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE_NAME = "manifest.json"
SCHEMA_VERSION = 1


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
        max_batch_size: the most images of one batch.
        verified_on: what the images were.
        parity: the comparisons with the network.
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
    max_batch_size: int
    verified_on: str
    parity: tuple[Mapping[str, Any], ...]
    files: Mapping[str, Mapping[str, Any]]
    environment: Mapping[str, str]
    seconds: Mapping[str, float]
    created: str
    schema_version: int = SCHEMA_VERSION

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` into a folder."""
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)
        (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def describe_files(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of files, by name."""
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths}


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
