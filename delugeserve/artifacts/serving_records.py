"""How each version of a model was to be served when it was exported: ``generated.pbtxt``.

The record is the whole ``config.pbtxt`` that the export generated, without the number of the
version and without what a person wrote. Older releases kept none; then it is made from the manifest
and from another version of the same backend and precision.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from delugeserve.artifacts.config_message import message_text, parse
from delugeserve.artifacts.labels import FILE_NAME as LABELS
from delugeserve.artifacts.manifest import ARTIFACT, Manifest, find_manifest
from delugeserve.artifacts.model_config import FILE_NAME as CONFIG
from delugeserve.artifacts.model_config import ModelConfig, Tensor, parse_config
from delugeserve.artifacts.preprocessing import (
    DIGEST,
    preprocessing_of,
    preprocessing_parameters,
)
from delugeserve.artifacts.repository import version_numbers
from delugeserve.errors import RepositoryError
from delugeserve.system.imports import require

GENERATED = "generated.pbtxt"


def record_generated(folder: Path, config: ModelConfig) -> None:
    """Write what is generated for a version, whatever its number, into its folder."""
    (folder / GENERATED).write_text(config.to_text(), encoding="utf-8")


def pin(text: str, version: int, *, labels: bool) -> str:
    """Return a generated configuration that serves one version, with that version's labels.

    Args:
        text: the configuration, whatever version it serves.
        version: the version; the steps of an ensemble take theirs of the same number.
        labels: the version has a label file, for every output of scores.
    """
    pb = require("tritonclient.grpc.model_config_pb2", "export")
    message = parse(text)
    message.version_policy.Clear()
    message.version_policy.specific.versions.append(version)
    if message.HasField("ensemble_scheduling"):
        for step in message.ensemble_scheduling.step:
            step.model_version = version
    for output in message.output:
        labelled = labels and output.data_type == pb.TYPE_FP32
        output.label_filename = f"{version}/{LABELS}" if labelled else ""
    return message_text(message)


def read_record(folder: Path, version: int) -> str | None:
    """Return what the export of a version generated; None if that is not known.

    Args:
        folder: the model's folder.
        version: number of the version.
    """
    path = folder / str(version) / GENERATED
    try:
        parse_config(path)
    except RepositoryError:
        return None
    return path.read_text(encoding="utf-8")


def find_record(folder: Path, version: int) -> str:
    """Return how a version is served, made from its manifest if its export kept no record.

    Args:
        folder: the model's folder.
        version: number of the version.

    Raises:
        RepositoryError: it is not known.
    """
    text, manifest = read_record(folder, version), find_manifest(folder, version)
    if text is not None:
        return text if manifest is None else _with_digests(text, manifest)
    for config, of in _others(folder):
        if manifest is None:
            # Nothing tells versions apart that somebody else made.
            if of is None:
                return config.to_text()
        elif of is not None and _alike(of, manifest):
            return _adapt(config, manifest).to_text()
    raise RepositoryError(
        f"It is not known how to serve version {version} of '{folder.name}': the release that "
        "exported it kept no record.",
        f"Write the configuration of that version into {folder / CONFIG}, or export it again.",
        folder / str(version),
    )


def _with_digests(text: str, manifest: Manifest) -> str:
    """Return a record with the digests that older releases left out."""
    message = parse(text)
    digests = {DIGEST: manifest.preprocessing, ARTIFACT: manifest.digest}
    missing = digests.keys() - message.parameters.keys()
    for key in sorted(missing):
        message.parameters[key].string_value = digests[key]
    return message_text(message) if missing else text


def _others(folder: Path) -> Iterator[tuple[ModelConfig, Manifest | None]]:
    """Return the configurations of the folder and of other versions, and what each is for."""
    for number in reversed(version_numbers(folder)):
        text = read_record(folder, number)
        if text is not None:
            yield parse_config(folder / str(number) / GENERATED), find_manifest(folder, number)
    try:
        config = parse_config(folder / CONFIG)
    except RepositoryError:
        return
    numbers = version_numbers(folder)
    served = max((one for one in numbers if one in config.versions), default=None)
    yield config, find_manifest(folder, served or max(numbers, default=None))


def _alike(one: Manifest, other: Manifest) -> bool:
    return (one.backend, one.precision) == (other.backend, other.precision)


def _adapt(config: ModelConfig, manifest: Manifest) -> ModelConfig:
    """Return the configuration of a version as its manifest has it."""
    task, largest = manifest.network.task, manifest.max_batch_size
    size = task.image_size
    return dataclasses.replace(
        config,
        artefact=manifest.artefact,
        max_batch_size=largest,
        inputs={
            name: dataclasses.replace(one, dims=(size, size, 3))
            for name, one in config.inputs.items()
        },
        outputs=dict.fromkeys(config.outputs, Tensor("TYPE_FP32", (task.num_classes,))),
        warmup_batches=tuple(sorted({1, largest})) if config.warmup_batches else (),
        parameters={
            **config.parameters,
            **preprocessing_parameters(preprocessing_of(task)),
            ARTIFACT: manifest.digest,
        },
    )
