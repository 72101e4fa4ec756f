"""The next ``config.pbtxt`` of a model's folder: what an export generates, and what stays.

Each version's folder has ``generated.pbtxt``: what its export generated, before hand edits were
merged in. The first line of ``config.pbtxt`` says which version wrote the file, and so which
record to compare it with; the version that is served may be an older one.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from delugeserve.artifacts import labels
from delugeserve.artifacts.changes import ServedVersion
from delugeserve.artifacts.config_merge import ConfigMerge, merge_config
from delugeserve.artifacts.config_rules import Artefact
from delugeserve.artifacts.manifest import FILE_NAME as MANIFEST
from delugeserve.artifacts.manifest import read_manifest
from delugeserve.artifacts.model_config import FILE_NAME as CONFIG
from delugeserve.artifacts.model_config import ModelConfig, parse_config
from delugeserve.artifacts.repository import version_numbers
from delugeserve.errors import RepositoryError

GENERATED = "generated.pbtxt"

_HEADER = re.compile(r"# 'delugeserve export' wrote this file for version (\d+)\..*\r?\n?")


def record_generated(folder: Path, config: ModelConfig) -> None:
    """Write what is generated for a version, whatever its number, into its folder."""
    (folder / GENERATED).write_text(config.to_text(), encoding="utf-8")


def update_config(
    served: ServedVersion | None,
    staged: Path,
    config: ModelConfig,
    version: int,
    fixed_parameters: frozenset[str] = frozenset(),
) -> ConfigMerge:
    """Return the configuration that serves a new version and keeps what was written by hand.

    Args:
        served: what the model's folder serves; None if it has no configuration.
        staged: folder with the new version's files.
        config: what the export generates, without a version.
        version: number of the new version.
        fixed_parameters: keys of parameters that set how an artefact computes.

    Raises:
        RepositoryError: the file cannot be read.
    """
    generated = config.serving(version)
    header = (
        f"# 'delugeserve export' wrote this file for version {version}. "
        "The next export keeps what you change here.\n"
    )
    if served is None:
        return ConfigMerge(header + generated.to_text())
    text = (served.folder / CONFIG).read_bytes().decode()
    written_by = _HEADER.search(text)
    numbers = frozenset(version_numbers(served.folder))
    merged = merge_config(
        _HEADER.sub("", text, count=1),
        _generated_before(served.folder, int(written_by[1]) if written_by else served.number),
        generated.to_text(),
        Artefact(
            fixed_parameters,
            _fitting_labels(served, staged),
            numbers,
            frozenset(one for one in numbers if _is_servable(served.folder / str(one), staged)),
        ),
    )
    return dataclasses.replace(merged, text=header + merged.text)


def _generated_before(folder: Path, version: int | None) -> str | None:
    """Return what was generated for a version: nothing if no export wrote it, None if unknown."""
    if version is None or not (folder / str(version) / MANIFEST).is_file():
        return ""
    try:
        return parse_config(folder / str(version) / GENERATED).serving(version).to_text()
    except RepositoryError:
        return None


def _fitting_labels(served: ServedVersion, staged: Path) -> frozenset[str]:
    """Return the label files that were written by hand and fit the new version's classes."""
    names = labels.read_labels(staged / labels.FILE_NAME)
    if served.class_names != names:
        return frozenset()
    fitting = set()
    for name in served.config.labels.values():
        try:
            translated = labels.read_labels(served.folder / name)
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
