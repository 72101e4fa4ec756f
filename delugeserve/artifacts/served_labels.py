"""Whether the labels that a server answers with are those of the version that answers.

``config.pbtxt`` names one label file for every version that it serves. An export and ``promote``
write that of the version; an edit by hand may leave that of another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from delugeserve.artifacts import labels
from delugeserve.artifacts.companions import companion_of
from delugeserve.artifacts.model_config import ModelConfig, read_config
from delugeserve.artifacts.repository import (
    StoredModel,
    find_models,
    repository_option,
    version_numbers,
    with_companions,
)
from delugeserve.errors import RepositoryError


@dataclass(frozen=True)
class LabelFault:
    """Labels that are not those of the version that answers.

    Attributes:
        output: name of the output.
        file: the label file, relative to the model's folder.
        version: number of the version whose labels it has.
        served: number of a version that answers with them.
        problem: what is wrong, a clause without its full stop.
        remedy: what ends it, a sentence.
    """

    output: str
    file: str
    version: int
    served: int
    problem: str
    remedy: str


def served_versions(folder: Path, config: ModelConfig) -> list[int]:
    """Return the numbers of the versions that a server loads, in order."""
    numbers = version_numbers(folder)
    if config.versions:
        return [number for number in numbers if number in config.versions]
    return numbers if config.newest is None else numbers[-config.newest :]


def find_label_faults(folder: Path, config: ModelConfig) -> list[LabelFault]:
    """Return the outputs of a model that answer with the labels of another version.

    Args:
        folder: the model's folder.
        config: its configuration.
    """
    return list(_find(folder, config, served_versions(folder, config)))


def check_served_labels(folder: Path, config: ModelConfig) -> None:
    """Refuse a model that would answer with the labels of another version.

    Args:
        folder: the model's folder.
        config: its configuration.

    Raises:
        RepositoryError: it would.
    """
    for fault in find_label_faults(folder, config):
        raise RepositoryError(f"In '{folder.name}', {fault.problem}.", fault.remedy, folder)


def models_to_serve(repository: Path, names: Sequence[str] | None = None) -> list[StoredModel]:
    """Return the models that a server is to load, each followed by its companions.

    Args:
        repository: the model repository.
        names: the models to serve; None for all.

    Raises:
        RepositoryError: there is no repository, no model in it, a configuration is invalid, or a
            model would answer with the labels of another version.
        UnknownNameError: there is no model of a given name.
    """
    models = with_companions(find_models(repository, names))
    for model in models:
        check_served_labels(model.folder, read_config(model.folder))
    return models


def _find(folder: Path, config: ModelConfig, served: list[int]) -> Iterator[LabelFault]:
    if not served:
        return
    model = companion_of(folder) or folder.name
    newest = served[-1]
    promote = f"delugeserve promote {model} {newest}{repository_option(folder.parent)}"
    for output, file in config.labels.items():
        first, *rest = PurePosixPath(file).parts
        if not (rest and first.isdecimal()):
            continue
        version = int(first)
        if version not in served:
            problem = (
                f"the labels of {output} are those of version {version} ({file}), but version "
                f"{newest} is served"
            )
            remedy = f"Take those of version {newest} with: {promote}"
            yield LabelFault(output, file, version, newest, problem, remedy)
            continue
        for other in served:
            own = PurePosixPath(str(other), *rest)
            if other != version and _names(folder / own) != _names(folder / file):
                problem = (
                    f"version {other} is served with the labels of version {version} ({file}), "
                    "which are others"
                )
                remedy = f"Serve one version with: {promote} --replace-classes"
                yield LabelFault(output, file, version, other, problem, remedy)
                break


def _names(path: Path) -> tuple[str, ...] | None:
    try:
        return labels.read_labels(path)
    except RepositoryError:
        return None
