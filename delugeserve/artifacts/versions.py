"""Read exported versions and repositories: manifests, files and how they are served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from delugeserve.artifacts import labels
from delugeserve.artifacts.canary import Canary, read_canary
from delugeserve.artifacts.companions import find_companions
from delugeserve.artifacts.manifest import FILE_NAME, Manifest, read_manifest
from delugeserve.artifacts.model_config import FILE_NAME as CONFIG
from delugeserve.artifacts.model_config import ModelConfig, read_config
from delugeserve.artifacts.repository import (
    StoredModel,
    find_models,
    list_names,
    version_numbers,
)
from delugeserve.artifacts.served_labels import LabelFault, find_label_faults, served_versions
from delugeserve.artifacts.transaction import lock_for_reading
from delugeserve.errors import RepositoryError
from delugeserve.system.files import sha256

FileState = Literal["whole", "changed", "missing"]


@dataclass(frozen=True)
class StoredFile:
    """A file of a version, compared with the manifest.

    Attributes:
        name: file name.
        bytes: its size; of a missing file, the size in the manifest.
        state: ``whole`` if its SHA-256 is the manifest's; None if the manifest does not list it.
    """

    name: str
    bytes: int
    state: FileState | None


@dataclass(frozen=True)
class Version:
    """An exported version.

    Attributes:
        folder: absolute path.
        model: name of the model's folder.
        number: name of the version's folder.
        served: whether it is the version that is served; None without a configuration.
        manifest: its manifest.
        files: all files but the manifest.
        labels: class names.
        config: how it is served; None without a configuration.
        label_faults: outputs that answer with the labels of another version.
    """

    folder: Path
    model: str
    number: str
    served: bool | None
    manifest: Manifest
    files: tuple[StoredFile, ...]
    labels: tuple[str, ...]
    config: ModelConfig | None
    label_faults: tuple[LabelFault, ...] = ()


@dataclass(frozen=True)
class RepositoryModel:
    """A model of a repository and its served version.

    Attributes:
        name: name of the model.
        version: number of the served version; None if there is none.
        others: numbers of the other versions.
        backend: Triton's name of the backend.
        max_batch_size: most images in one batch.
        manifest: of the served version; None if it cannot be read.
        bytes: size of the served version.
        fault: why the model cannot be read; None if it can.
    """

    name: str
    version: int | None
    others: tuple[int, ...]
    backend: str
    max_batch_size: int | None
    manifest: Manifest | None
    bytes: int
    fault: str | None = None


@dataclass(frozen=True)
class StoredVersion:
    """A version of a model in a repository.

    Attributes:
        model: name of the model.
        version: its number.
        served: whether requests for the model get it.
        share: fraction of the requests that it gets as the canary; None if it is not the canary.
        manifest: None if it cannot be read.
        classes: number of classes; None if that is not known.
        bytes: size of its folder and of those of the model's companions.
        fault: why the manifest cannot be read; None if it can.
    """

    model: str
    version: int
    served: bool
    share: float | None
    manifest: Manifest | None
    classes: int | None
    bytes: int
    fault: str | None = None


def list_versions(repository: Path, model: str | None = None) -> list[StoredVersion]:
    """Return every version of every model, in order.

    Args:
        repository: the model repository.
        model: the model to list; None for all.

    Raises:
        RepositoryError: there is no repository, no model in it, or a configuration is invalid.
        UnknownNameError: there is no model of the given name.
    """
    list_names(repository)
    with lock_for_reading(repository):
        stored = find_models(repository, None if model is None else [model])
        canary = read_canary(repository)
        return [
            _stored_version(one, number, canary)
            for one in stored
            for number in version_numbers(one.folder)
        ]


def _stored_version(model: StoredModel, number: int, canary: Canary | None) -> StoredVersion:
    folder = model.folder / str(number)
    manifest, fault = None, None
    try:
        manifest = read_manifest(folder)
    except RepositoryError as error:
        fault = error.problem
    label_file = folder / labels.FILE_NAME
    if manifest is not None:
        classes: int | None = manifest.network.task.num_classes
    else:
        classes = len(labels.read_labels(label_file)) if label_file.is_file() else None
    sizes = [
        path.stat().st_size
        for one in (model.folder, *find_companions(model.folder, off=True))
        for path in (one / str(number)).rglob("*")
        if path.is_file()
    ]
    on_trial = canary is not None and (canary.model, canary.version) == (model.name, number)
    return StoredVersion(
        model.name,
        number,
        number in served_versions(model.folder, read_config(model.folder)),
        canary.share if canary is not None and on_trial else None,
        manifest,
        classes,
        sum(sizes),
        fault,
    )


def read_version(folder: Path) -> Version:
    """Read a version's folder and hash its files.

    Raises:
        RepositoryError: its manifest or its model's configuration cannot be read.
    """
    folder = folder.resolve()
    manifest = read_manifest(folder)
    model = folder.parent
    config = served = None
    faults: list[LabelFault] = []
    if (model / CONFIG).is_file():
        config = read_config(model)
        (stored,) = find_models(model.parent, [model.name])
        served = str(stored.version) == folder.name
        if served:
            faults = find_label_faults(model, config)
    label_file = folder / labels.FILE_NAME
    return Version(
        folder=folder,
        model=model.name,
        number=folder.name,
        served=served,
        manifest=manifest,
        files=compare_files(folder, manifest),
        labels=labels.read_labels(label_file) if label_file.is_file() else (),
        config=config,
        label_faults=tuple(faults),
    )


def read_repository(repository: Path) -> list[RepositoryModel]:
    """Read all models of a repository; a model that cannot be read has a ``fault``.

    Raises:
        RepositoryError: there is no repository, or no model in it.
    """
    return [_read_model(repository, name) for name in list_names(repository)]


def compare_files(folder: Path, manifest: Manifest) -> tuple[StoredFile, ...]:
    """Compare a version's files with its manifest, by SHA-256."""
    expected = manifest.files
    present = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    files = []
    for name in sorted({*expected, *present} - {FILE_NAME}):
        if name not in present:
            files.append(StoredFile(name, expected[name].bytes, "missing"))
            continue
        state: FileState | None = None
        if name in expected:
            state = "whole" if sha256(present[name]) == expected[name].sha256 else "changed"
        files.append(StoredFile(name, present[name].stat().st_size, state))
    return tuple(files)


def _read_model(repository: Path, name: str) -> RepositoryModel:
    try:
        (stored,) = find_models(repository, [name])
        config = read_config(stored.folder)
    except RepositoryError as error:
        return RepositoryModel(name, None, (), "", None, None, 0, error.problem)
    numbers = [int(child.name) for child in stored.folder.iterdir() if child.name.isdecimal()]
    others = tuple(sorted(number for number in numbers if number != stored.version))
    manifest: Manifest | None = None
    size, fault = 0, None
    if stored.version is None:
        fault = f"The version that {CONFIG} serves is missing."
    else:
        folder = stored.folder / str(stored.version)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        try:
            manifest = read_manifest(folder)
        except RepositoryError as error:
            fault = error.problem
    for found in find_label_faults(stored.folder, config):
        fault = f"In '{name}', {found.problem}. {found.remedy}"
    return RepositoryModel(
        name,
        stored.version,
        others,
        stored.backend,
        config.max_batch_size,
        manifest,
        size,
        fault,
    )
