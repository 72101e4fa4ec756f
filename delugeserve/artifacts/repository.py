"""Find the models of a Triton model repository and the versions that it serves."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from delugeserve.artifacts.companions import (
    COMPANION_OF,
    companion_names,
    companion_of,
    find_companions,
)
from delugeserve.artifacts.model_config import FILE_NAME as CONFIG
from delugeserve.artifacts.model_config import read_config, read_message
from delugeserve.errors import RepositoryError, UnknownNameError
from delugeserve.system.files import make_readable

_log = logging.getLogger(__name__)

DEFAULT_REPOSITORY = Path("model_repository")
"""The repository of every command that is given no ``--repository``."""


@dataclass(frozen=True)
class StoredModel:
    """A model folder with a readable ``config.pbtxt``.

    Attributes:
        name: name of the folder, under which the model is served.
        folder: absolute path.
        backend: Triton's name of the backend, such as ``onnxruntime``.
        complete: the configuration states inputs and outputs, so the backend need not find them
            out.
        version: the version that is served: the newest one that the configuration allows; None if
            there is none.
        runtime: the implementation of the backend that the configuration names, such as
            ``model.py``; empty lets Triton choose.
        companion_of: the model that it is served beside, see
            :mod:`delugeserve.artifacts.companions`; empty for a model of its own.
        max_batch_size: most images in one batch.
        uses_cache: the configuration asks for the server's response cache.
        uses_rate_limiter: the configuration asks for the server's rate limiter.
    """

    name: str
    folder: Path
    backend: str
    complete: bool
    version: int | None = None
    runtime: str = ""
    companion_of: str = ""
    max_batch_size: int = 0
    uses_cache: bool = False
    uses_rate_limiter: bool = False


def find_models(repository: Path, names: Sequence[str] | None = None) -> list[StoredModel]:
    """Return the models of a repository, sorted by name.

    Hidden folders and folders without a configuration are ignored: an export may be writing them.
    Companions of a model are part of it, and found by :func:`with_companions`.

    Args:
        repository: the folder that contains one folder per model.
        names: the models to return; None for all.

    Raises:
        RepositoryError: there is no repository, no model in it, or a configuration is invalid.
        UnknownNameError: there is no model of a given name.
    """
    known = list_names(repository)
    for name in names or ():
        if name not in known:
            raise UnknownNameError(f"model in '{repository}' named", name, known)
    chosen = sorted(set(names)) if names else known
    return [_read(name, repository / name / CONFIG) for name in chosen]


def with_companions(models: Sequence[StoredModel]) -> list[StoredModel]:
    """Return models and the companions of each, in the order to load them.

    Companions that the server could not load beside the model are left out, with a warning: of
    another version, with larger batches, or one without the other.

    Raises:
        RepositoryError: the configuration of a companion is invalid.
    """
    found: list[StoredModel] = []
    for model in models:
        found.append(model)
        companions = [_read(one.name, one / CONFIG) for one in find_companions(model.folder)]
        reason = _reason_against(model, companions)
        if not reason:
            found += companions
            continue
        _log.warning(
            "The server does not take encoded images for '%s': %s. Check the repository with: "
            "delugeserve doctor%s",
            model.name,
            reason,
            repository_option(model.folder.parent),
        )
    return found


def _reason_against(model: StoredModel, companions: Sequence[StoredModel]) -> str:
    """Return why a server could not load a model's companions; empty if it could."""
    if len(companions) == 1:
        missing = set(companion_names(model.name)) - {companions[0].name}
        return f"{missing.pop()} is missing"
    for one in companions:
        if one.version != model.version:
            return f"{one.name} serves version {one.version}, not {model.version}"
        if one.max_batch_size > model.max_batch_size:
            return (
                f"{one.name} takes batches up to {one.max_batch_size}, but {model.name} up to "
                f"{model.max_batch_size}"
            )
    return ""


def check_not_nested(repository: Path) -> None:
    """Refuse the folder of a model, or a folder in it, as a model repository.

    Args:
        repository: the folder; it need not exist.

    Raises:
        RepositoryError: it is one.
    """
    here = repository.absolute()
    for folder, kind in ((here, "model"), (here.parent, "version"), (here.parent.parent, "")):
        if (folder / CONFIG).is_file():
            what = (
                f"the folder of a {kind}" if kind and here.is_dir() else "inside a model's folder"
            )
            raise RepositoryError(
                f"'{repository}' is {what}, not a model repository.",
                "Give the folder that contains the model: --repository "
                f"{shlex.quote(str(folder.parent))}",
                repository,
            )


def list_names(repository: Path) -> list[str]:
    """Return the names of a repository's models, sorted, without their companions.

    Raises:
        RepositoryError: there is no repository, or no model in it.
    """
    if not repository.is_dir():
        check_not_nested(repository)
        raise RepositoryError(
            f"There is no model repository at '{repository}'.",
            _export_into(repository),
            repository,
        )
    try:
        names = [
            folder.name
            for folder in sorted(repository.iterdir())
            if not folder.name.startswith(".")
            and (folder / CONFIG).is_file()
            and companion_of(folder) is None
        ]
    except PermissionError:
        raise RepositoryError(
            f"The model repository '{repository}' cannot be read: permission denied.",
            make_readable(repository),
            repository,
        ) from None
    if not names:
        check_not_nested(repository)
        raise RepositoryError(
            f"There is no model in the repository '{repository}'.",
            _export_into(repository),
            repository,
        )
    return names


def repository_option(repository: Path) -> str:
    """Return the option that names a repository, after a space; empty for the default one."""
    if repository.resolve() == DEFAULT_REPOSITORY.resolve():
        return ""
    return f" --repository {shlex.quote(str(repository))}"


def _export_into(repository: Path) -> str:
    return f"Export one with: delugeserve export --model delugenet38{repository_option(repository)}"


def _read(name: str, path: Path) -> StoredModel:
    config, message = read_config(path.parent), read_message(path.parent)
    if any(character.isspace() for character in name):
        raise RepositoryError(
            f"The model name '{name}' contains a space, on which the server crashes.",
            f"Rename the folder: {path.parent}",
            path.parent,
        )
    if config.name and config.name != name:
        raise RepositoryError(
            f"The configuration in the folder '{name}' names the model '{config.name}'.",
            f"Rename the folder, or correct the name in {path}.",
            path,
        )
    return StoredModel(
        name,
        path.parent.resolve(),
        config.backend,
        config.complete,
        served_version(path.parent, config.versions),
        config.runtime,
        config.parameters.get(COMPANION_OF, ""),
        config.max_batch_size,
        message.response_cache.enable,
        any(group.HasField("rate_limiter") for group in message.instance_group),
    )


def version_numbers(folder: Path) -> list[int]:
    """Return the numbers of the versions in a model's folder, in order."""
    return sorted(
        int(child.name)
        for child in folder.iterdir()
        # Triton ignores numbers with a leading zero.
        if child.is_dir() and child.name.isdecimal() and not child.name.startswith("0")
    )


def served_version(folder: Path, allowed: Sequence[int]) -> int | None:
    """Return the newest version in a model's folder, of those that are allowed if any are."""
    found = version_numbers(folder)
    return max((number for number in found if not allowed or number in allowed), default=None)
