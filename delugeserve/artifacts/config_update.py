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
from delugeserve.artifacts.repository import version_numbers
from delugeserve.artifacts.serving_records import pin, read_record
from delugeserve.errors import RepositoryError

_HEADER = re.compile(r"# 'delugeserve \w+' wrote this file for version (\d+)\..*\r?\n?")


def update_config(
    served: ServedVersion | None,
    files: Path,
    record: str,
    version: int,
    fixed_parameters: frozenset[str] = frozenset(),
    command: str = "export",
    largest: int | None = None,
) -> ConfigMerge:
    """Return the configuration that serves another version and keeps what was written by hand.

    Args:
        served: what the model's folder serves; None if it has no configuration.
        files: folder with the files of the version to serve.
        record: what its export generated, whatever version that serves.
        version: its number.
        fixed_parameters: keys of parameters that set how an artefact computes.
        command: the command that writes the file.
        largest: the largest batch of the model whose companion it is; None for other models.

    Raises:
        RepositoryError: the file cannot be read.
    """
    generated = _limit(pin(record, version, labels=(files / LABELS).is_file()), largest)
    header = (
        f"# 'delugeserve {command}' wrote this file for version {version}. "
        "The next export keeps what you change here.\n"
    )
    if served is None:
        return ConfigMerge(header + generated)
    text = served.text
    written_by = _HEADER.search(text)
    numbers = frozenset(version_numbers(served.folder)) - {version}
    before = _generated_before(served.folder, int(written_by[1]) if written_by else served.number)
    if before and largest is not None:  # it followed the model, whatever a person wrote there
        before = _limit(before, served.config.max_batch_size)
    merged = merge_config(
        _HEADER.sub("", text, count=1),
        before,
        generated,
        Artefact(
            fixed_parameters,
            _fitting_labels(served, files),
            numbers,
            frozenset(one for one in numbers if _is_servable(served.folder / str(one), files)),
        ),
    )
    return dataclasses.replace(merged, text=header + merged.text)


def same_settings(one: str, other: str) -> bool:
    """Whether two texts differ at most in the line that names the command that wrote them."""
    return _HEADER.sub("", one, count=1) == _HEADER.sub("", other, count=1)


def _limit(text: str, largest: int | None) -> str:
    """Return a generated configuration with batches of at most a given size."""
    if largest is None:
        return text
    message = parse(text)
    message.max_batch_size = min(message.max_batch_size, largest)
    return message_text(message)


def _generated_before(folder: Path, version: int | None) -> str | None:
    """Return what was generated for a version: nothing if no export wrote it, None if unknown."""
    if version is None:
        return ""
    files, text = folder / str(version), read_record(folder, version)
    if text is None:
        return None if (files / MANIFEST).is_file() else ""
    return pin(text, version, labels=(files / LABELS).is_file())


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
