"""What a model repository holds: versions, their manifests and files, and how they are served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from delugeserve.artifacts.manifest import FILE_NAME, Manifest, read_manifest
from delugeserve.artifacts.repository import CONFIG, find_models, list_names, parse_config
from delugeserve.errors import RepositoryError
from delugeserve.system.files import sha256

FileState = Literal["whole", "changed", "missing"]

_THREADS = ("intra_op_thread_count", "INFERENCE_NUM_THREADS")


@dataclass(frozen=True)
class ServingConfig:
    """What matters of a model's ``config.pbtxt``.

    Attributes:
        backend: what runs it.
        artefact: file name of what the backend loads; empty for the backend's default.
        max_batch_size: the most images of one batch.
        instances: how many copies run side by side, on each processor or GPU of the group.
        instance_kinds: Triton's kinds of these instances.
        threads: what the configuration gives each instance; None leaves it to the backend, which
            divides the cores among the instances.
        dynamic_batching: the server puts requests together.
        queue_delay_us: how long it waits for more of them, in microseconds.
        warmup_batches: batch sizes that run before the model counts as ready.
        labels: files of class names by output, relative to the model's folder.
        num_classes: values for an image by output.
        parameters: strings for the backend and for clients.
    """

    backend: str
    artefact: str
    max_batch_size: int
    instances: int
    instance_kinds: tuple[str, ...]
    threads: int | None
    dynamic_batching: bool
    queue_delay_us: int
    warmup_batches: tuple[int, ...]
    labels: Mapping[str, str]
    num_classes: Mapping[str, int]
    parameters: Mapping[str, str]


@dataclass(frozen=True)
class StoredFile:
    """A file of a version, beside what the manifest says of it.

    Attributes:
        name: file name.
        bytes: its size; the manifest's where it is missing.
        state: ``whole`` is the manifest's SHA-256; None: the manifest does not list it.
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
        served: the configuration names it; None if there is no configuration.
        manifest: what the exporter wrote of it.
        files: all files but the manifest.
        labels: class names.
        config: how it is served; None if there is no configuration.
    """

    folder: Path
    model: str
    number: str
    served: bool | None
    manifest: Manifest
    files: tuple[StoredFile, ...]
    labels: tuple[str, ...]
    config: ServingConfig | None


@dataclass(frozen=True)
class RepositoryModel:
    """A model of a repository, in one row.

    Attributes:
        name: the model's name.
        version: the number that is served; None if there is none.
        others: numbers of the versions that are not served.
        backend: what runs it.
        max_batch_size: the most images of one batch.
        manifest: what the exporter wrote of the served version; None if it cannot be read.
        bytes: size of the served version.
        fault: why the row says no more; None if it says all.
    """

    name: str
    version: int | None
    others: tuple[int, ...]
    backend: str
    max_batch_size: int | None
    manifest: Manifest | None
    bytes: int
    fault: str | None = None


def read_version(folder: Path) -> Version:
    """Read a version's folder, and hash its files.

    Raises:
        RepositoryError: it has no manifest of this release, or a configuration that does not parse.
    """
    folder = folder.resolve()
    manifest = read_manifest(folder)
    model = folder.parent
    config = served = None
    if (model / CONFIG).is_file():
        config = read_config(model)
        (stored,) = find_models(model.parent, [model.name])
        served = str(stored.version) == folder.name
    labels = folder / "labels.txt"
    return Version(
        folder=folder,
        model=model.name,
        number=folder.name,
        served=served,
        manifest=manifest,
        files=compare_files(folder, manifest),
        labels=read_labels(labels) if labels.is_file() else (),
        config=config,
    )


def read_repository(repository: Path) -> list[RepositoryModel]:
    """A row for each model; one that cannot be read says why in its own row.

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


def read_labels(path: Path) -> tuple[str, ...]:
    """The class names in a file, one a line."""
    return tuple(path.read_text(encoding="utf-8", errors="replace").splitlines())


def read_config(folder: Path) -> ServingConfig:
    """Read the ``config.pbtxt`` in a model's folder.

    Raises:
        RepositoryError: it does not parse.
    """
    config = parse_config(folder / CONFIG)
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    threads = [parameters[key] for key in _THREADS if parameters.get(key, "").isdecimal()]
    return ServingConfig(
        backend=config.backend or config.platform.partition("_")[0],
        artefact=config.default_model_filename,
        max_batch_size=config.max_batch_size,
        # A group that names no number has one; so has a model that names no group.
        instances=sum(group.count or 1 for group in config.instance_group) or 1,
        instance_kinds=tuple(group.Kind.Name(group.kind) for group in config.instance_group),
        threads=(int(threads[0]) or None) if threads else None,
        dynamic_batching=config.HasField("dynamic_batching"),
        queue_delay_us=config.dynamic_batching.max_queue_delay_microseconds,
        # A warm-up that names no batch size has one.
        warmup_batches=tuple(warmup.batch_size or 1 for warmup in config.model_warmup),
        labels={
            output.name: output.label_filename for output in config.output if output.label_filename
        },
        num_classes={output.name: output.dims[-1] for output in config.output if output.dims},
        parameters=parameters,
    )


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
        fault = "The version that config.pbtxt names is missing."
    else:
        folder = stored.folder / str(stored.version)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        try:
            manifest = read_manifest(folder)
        except RepositoryError as error:
            fault = error.problem
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
