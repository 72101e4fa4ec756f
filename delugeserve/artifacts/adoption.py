"""Companions for a version that was exported without them.

The decoder of encoded images and the ensemble around it depend on a version only by its
preprocessing, its classes and its largest batch. So a version of an older release, or one exported
without them, gets copies of another version's if that prepares images alike.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from delugeserve.artifacts.config_message import message_text, parse
from delugeserve.artifacts.interface import PROBABILITIES
from delugeserve.artifacts.labels import FILE_NAME as LABELS
from delugeserve.artifacts.manifest import ARTIFACT, Manifest
from delugeserve.artifacts.preprocessing import DIGEST
from delugeserve.artifacts.repository import version_numbers
from delugeserve.artifacts.serving_records import GENERATED, read_record
from delugeserve.artifacts.transaction import Move


@dataclass(frozen=True)
class Adoption:
    """A version of a companion that is made from another one.

    Attributes:
        name: name of the companion.
        source: folder of the version that is copied.
        record: how the new version is served, without its number.
    """

    name: str
    source: Path
    record: str


def find_adoption(companion: Path, manifest: Manifest) -> Adoption | None:
    """Return how a companion gets a version that it lacks; None if no other version fits.

    Args:
        companion: the companion's folder.
        manifest: of the model's version.
    """
    for number in reversed(version_numbers(companion)):
        text = read_record(companion, number)
        if text is None:
            continue
        message = parse(text)
        if message.parameters[DIGEST].string_value != manifest.preprocessing:
            continue
        message.parameters[ARTIFACT].string_value = manifest.digest
        message.max_batch_size = manifest.max_batch_size
        for output in message.output:
            if output.name == PROBABILITIES:
                output.dims[:] = [manifest.network.task.num_classes]
        return Adoption(companion.name, companion / str(number), message_text(message))
    return None


def stage_adoption(repository: Path, adoption: Adoption, model: str, version: int) -> Move:
    """Copy the files of a companion's version, and return the move that adds the new one.

    Args:
        repository: the model repository.
        adoption: what to copy.
        model: name of the model.
        version: number of the version.

    Raises:
        OSError: the files cannot be written.
    """
    staged = repository / adoption.name / f".new-{version}"
    shutil.rmtree(staged, ignore_errors=True)  # of a process that was killed
    shutil.copytree(adoption.source, staged, ignore=shutil.ignore_patterns("__pycache__"))
    (staged / GENERATED).write_text(adoption.record, encoding="utf-8")
    if (staged / LABELS).is_file():
        shutil.copyfile(repository / model / str(version) / LABELS, staged / LABELS)
    return Move(f"{adoption.name}/{staged.name}", f"{adoption.name}/{version}")
