"""What an export changes for the users of a model: classes, preprocessing, precision, error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delugeserve.artifacts import labels
from delugeserve.artifacts.interface import INPUT
from delugeserve.artifacts.manifest import Manifest, find_manifest
from delugeserve.artifacts.model_config import FILE_NAME as CONFIG
from delugeserve.artifacts.model_config import ModelConfig, parse_config
from delugeserve.artifacts.repository import version_numbers
from delugeserve.errors import OtherClassesError, RepositoryError
from delugeserve.zoo import Task

_LATENCY, _MACHINE = "latency_ms_batch_", "machine"


@dataclass(frozen=True)
class ServedVersion:
    """The version of a model that is served before an export.

    Attributes:
        folder: the model's folder.
        number: of the version; None if the folder has none.
        config: how it is served.
        manifest: None if there is none that this release can read.
        class_names: None if they are not known.
        file: the configuration's file.
    """

    folder: Path
    number: int | None
    config: ModelConfig
    manifest: Manifest | None
    class_names: tuple[str, ...] | None
    file: Path

    @property
    def text(self) -> str:
        """The configuration as it is written."""
        return self.file.read_bytes().decode()

    def facts(self) -> dict[str, Any]:
        """Return what is known of it, under the names of :func:`describe_manifest`.

        ``outputs`` are those that clients can ask for.
        """
        known: dict[str, Any] = {"outputs": describe_outputs(self.config.outputs)}
        if self.manifest is not None:
            return describe_manifest(self.manifest) | known
        known["backend"] = self.config.backend
        known["max_batch_size"] = self.config.max_batch_size
        image = self.config.inputs.get(INPUT)
        if image is not None and image.dims:
            known["image_size"] = image.dims[0]
        size = self.config.parameters.get("resize_size", "")
        if size.isdecimal():
            known["resize_size"] = int(size)
        return known


@dataclass(frozen=True)
class ClassChanges:
    """How the classes of a model change.

    Attributes:
        added: classes that only the new version has.
        removed: classes that only the served version has.
        reordered: both have the same classes, in another order.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    reordered: bool = False

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.reordered)


@dataclass(frozen=True)
class Change:
    """A fact that changes.

    Attributes:
        before: its value in the version that was served.
        now: its value in the new version.
    """

    before: Any
    now: Any


@dataclass(frozen=True)
class Changes:
    """What an export changes.

    Attributes:
        version: number of the version that was served; None if there was none.
        classes: how the classes change; None if those of the served version are not known.
        facts: what changes, by the names of :func:`describe_manifest`.
    """

    version: int | None
    classes: ClassChanges | None
    facts: Mapping[str, Change]


def find_served(folder: Path, name: str = CONFIG) -> ServedVersion | None:
    """Return what a model's folder serves; None if it has no configuration.

    Args:
        folder: the model's folder.
        name: name of the configuration's file.

    Raises:
        RepositoryError: its configuration cannot be read.
    """
    file = folder / name
    if not file.is_file():
        return None
    config = parse_config(file)
    numbers = version_numbers(folder)
    allowed = [number for number in numbers if number in config.versions] or numbers
    number = max(allowed, default=None)
    version = folder / str(number)
    manifest = find_manifest(folder, number)
    label_files = [version / labels.FILE_NAME, *(folder / one for one in config.labels.values())]
    names: tuple[str, ...] | None = None
    if manifest is not None:
        names = manifest.network.task.class_names
    else:
        for path in label_files:
            try:
                names = labels.read_labels(path)
                break
            except RepositoryError:
                continue
    return ServedVersion(folder, number, config, manifest, names, file)


def compare_classes(before: Sequence[str], now: Sequence[str]) -> ClassChanges:
    """Compare the classes of two versions."""
    return ClassChanges(
        added=tuple(name for name in now if name not in set(before)),
        removed=tuple(name for name in before if name not in set(now)),
        reordered=list(before) != list(now) and sorted(before) == sorted(now),
    )


def check_classes(
    served: ServedVersion | None, class_names: Sequence[str], remedy: str | None = None
) -> None:
    """Refuse to replace a model by one with other classes.

    Args:
        served: what is served; None for nothing.
        class_names: of the new version.
        remedy: what to do about it; None for that of an export.

    Raises:
        OtherClassesError: the classes differ, or those of the served version are not known.
    """
    if served is None or served.number is None:
        return
    where = f"'{served.folder.name}' in {served.folder.parent}"
    if served.class_names is None:
        raise OtherClassesError(where, served.number, None, remedy=remedy)
    changes = compare_classes(served.class_names, class_names)
    if changes:
        raise OtherClassesError(
            where,
            served.number,
            (len(served.class_names), len(class_names)),
            added=changes.added,
            removed=changes.removed,
            reordered=changes.reordered,
            remedy=remedy,
        )


def compare(served: ServedVersion, class_names: Sequence[str], facts: Mapping[str, Any]) -> Changes:
    """Compare the version that is served with a new one.

    Args:
        served: the version.
        class_names: of the new one.
        facts: what is known of the new one, under the names of :func:`describe_manifest`.
    """
    known = served.facts()
    incomparable = {_MACHINE}
    if known.get(_MACHINE) != facts.get(_MACHINE):
        incomparable.update(name for name in facts if name.startswith(_LATENCY))
    return Changes(
        served.number,
        None if served.class_names is None else compare_classes(served.class_names, class_names),
        {
            name: Change(known[name], now)
            for name, now in facts.items()
            if name in known and known[name] != now and name not in incomparable
        },
    )


def describe_task(task: Task) -> dict[str, Any]:
    """Return how images are preprocessed."""
    return {
        "image_size": task.image_size,
        "resize_size": task.resize_size,
        "mean": task.mean,
        "std": task.std,
    }


def describe_outputs(names: Iterable[str]) -> str:
    """Return the names of outputs as one fact."""
    return ", ".join(sorted(names))


def describe_manifest(manifest: Manifest) -> dict[str, Any]:
    """Return the facts of a version that its users notice.

    Latencies are in milliseconds per batch; ``machine`` is where they were measured.
    """
    latencies = manifest.speed.get(manifest.precision, {})
    return {
        **describe_task(manifest.network.task),
        "backend": manifest.backend,
        "precision": manifest.precision,
        "max_batch_size": manifest.max_batch_size,
        "trained": manifest.trained,
        "architecture": manifest.network.architecture.name,
        **describe_error(manifest.checkpoint.metrics),
        "bytes": manifest.artefact_bytes,
        **{f"{_LATENCY}{size}": value for size, value in latencies.items()},
        _MACHINE: manifest.environment.get("machine"),
    }


def describe_error(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the top-1 error in percent, as training measured it, and the split it is of."""
    error = metrics.get("top1_error")
    if not isinstance(error, (int, float)):
        return {}
    return {"top1_error": error, "top1_error_split": metrics.get("split", "test")}
