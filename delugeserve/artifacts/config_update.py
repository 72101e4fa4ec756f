"""The next ``config.pbtxt`` of a model's folder: what an export generates, and what stays.

Each version's folder has ``generated.pbtxt``: what its export generated, before hand edits were
merged in. The first line of ``config.pbtxt`` says which version wrote the file, and so which
record to compare it with; the version that is served may be an older one.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from delugeserve.artifacts.changes import ServedVersion
from delugeserve.artifacts.config_merge import ConfigMerge, merge_config
from delugeserve.artifacts.config_message import message_text, parse
from delugeserve.artifacts.config_rules import Artefact
from delugeserve.artifacts.labels import FILE_NAME as LABELS
from delugeserve.artifacts.labels import read_labels
from delugeserve.artifacts.manifest import FILE_NAME as MANIFEST
from delugeserve.artifacts.manifest import read_manifest
from delugeserve.artifacts.model_config import FILE_NAME as CONFIG
from delugeserve.artifacts.model_config import ModelConfig
from delugeserve.artifacts.repository import version_numbers
from delugeserve.errors import RepositoryError
from delugeserve.system.imports import require

GENERATED = "generated.pbtxt"

_HEADER = re.compile(r"# 'delugeserve \w+' wrote this file for version (\d+)\..*\r?\n?")


def record_generated(folder: Path, config: ModelConfig) -> None:
    """Write what is generated for a version, whatever its number, into its folder."""
    (folder / GENERATED).write_text(config.to_text(), encoding="utf-8")


def pin(text: str, version: int, *, labels: bool) -> str:
    """Return a generated configuration that serves one version, with that version's labels.

    Args:
        text: the configuration, whatever version it serves.
        version: the version; the steps of an ensemble take theirs of the same number.
        labels: the version has a label file, for every output.
    """
    message = parse(text)
    message.version_policy.Clear()
    message.version_policy.specific.versions.append(version)
    for step in message.ensemble_scheduling.step if message.HasField("ensemble_scheduling") else ():
        step.model_version = version
    for output in message.output:
        output.label_filename = f"{version}/{LABELS}" if labels else ""
    return message_text(message)


def limit_batches(text: str, largest: int) -> str:
    """Return a generated configuration with batches of at most a given size."""
    message = parse(text)
    message.max_batch_size = min(message.max_batch_size, largest)
    return message_text(message)


def update_config(
    served: ServedVersion | None,
    files: Path,
    generated: str,
    version: int,
    fixed_parameters: frozenset[str] = frozenset(),
    command: str = "export",
) -> ConfigMerge:
    """Return the configuration that serves another version and keeps what was written by hand.

    Args:
        served: what the model's folder serves; None if it has no configuration.
        files: folder with the files of the version to serve.
        generated: its generated configuration, whatever version that serves.
        version: its number.
        fixed_parameters: keys of parameters that set how an artefact computes.
        command: the command that writes the file.

    Raises:
        RepositoryError: the file cannot be read.
    """
    generated = pin(generated, version, labels=(files / LABELS).is_file())
    header = (
        f"# 'delugeserve {command}' wrote this file for version {version}. "
        "The next export keeps what you change here.\n"
    )
    if served is None:
        return ConfigMerge(header + generated)
    text = (served.folder / CONFIG).read_bytes().decode()
    written_by = _HEADER.search(text)
    numbers = frozenset(version_numbers(served.folder)) - {version}
    merged = merge_config(
        _HEADER.sub("", text, count=1),
        _generated_before(served.folder, int(written_by[1]) if written_by else served.number),
        generated,
        Artefact(
            fixed_parameters,
            _fitting_labels(served, files),
            numbers,
            frozenset(one for one in numbers if _is_servable(served.folder / str(one), files)),
        ),
    )
    return dataclasses.replace(merged, text=header + merged.text)


def _generated_before(folder: Path, version: int | None) -> str | None:
    """Return what was generated for a version: nothing if no export wrote it, None if unknown."""
    files = folder / str(version)
    try:
        text = (files / GENERATED).read_text(encoding="utf-8")
        return pin(text, version or 0, labels=(files / LABELS).is_file())
    except (OSError, ValueError, _parse_error()):
        return None if (files / MANIFEST).is_file() else ""


def _parse_error() -> type[Exception]:
    error: type[Exception] = require("google.protobuf.text_format", "export").ParseError
    return error


def _fitting_labels(served: ServedVersion, staged: Path) -> frozenset[str]:
    """Return the label files that were written by hand and fit the new version's classes."""
    path = staged / LABELS
    names = read_labels(path) if path.is_file() else ()
    if served.class_names != names:
        return frozenset()
    fitting = set()
    for name in served.config.labels.values():
        try:
            translated = read_labels(served.folder / name)
        except RepositoryError:
            continue
        if len(translated) == len(names):
            fitting.add(name)
    return frozenset(fitting)


def _is_servable(folder: Path, staged: Path) -> bool:
    """Whether one configuration can serve an older version and the new one."""
    try:
        old, new = read_manifest(folder), read_manifest(staged)
    except RepositoryError:
        return False
    return (
        old.max_batch_size >= new.max_batch_size
        and all(
            getattr(old, name) == getattr(new, name)
            for name in ("artefact", "backend", "precision")
        )
        and old.network.task == new.network.task
    )
