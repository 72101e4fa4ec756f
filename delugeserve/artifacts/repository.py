"""What a model repository holds, read before a server is asked to load it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from delugeserve.artifacts.model_config import FILE_NAME as CONFIG
from delugeserve.artifacts.model_config import read_config
from delugeserve.errors import RepositoryError, UnknownNameError

DEFAULT_REPOSITORY = Path("model_repository")
"""The repository of every command that is given no ``--repository``."""


@dataclass(frozen=True)
class StoredModel:
    """A model folder with a readable ``config.pbtxt``.

    Attributes:
        name: the folder's name, which is the name it is served under.
        folder: absolute path.
        backend: what runs it, such as ``onnxruntime``.
        complete: the configuration states its inputs and outputs, so no backend has to find out.
        version: the version that answers a request that asks for none: the newest one that the
            configuration allows; None if there is none.
        runtime: the implementation of the backend that the configuration names, such as
            ``model.py``; empty lets Triton choose.
    """

    name: str
    folder: Path
    backend: str
    complete: bool
    version: int | None = None
    runtime: str = ""


def find_models(repository: Path, names: Sequence[str] | None = None) -> list[StoredModel]:
    """The models of a repository, in the order of their names.

    Hidden folders, files and folders without a configuration are passed over: an exporter may be
    at work in the same place.

    Args:
        repository: the folder that holds one folder for each model.
        names: only these, all of which must exist; None means every model.

    Raises:
        RepositoryError: there is no repository, no model in it, or a configuration does not parse.
        UnknownNameError: a name is not there.
    """
    known = list_names(repository)
    for name in names or ():
        if name not in known:
            raise UnknownNameError(f"model in '{repository}' named", name, known)
    chosen = sorted(set(names)) if names else known
    return [_read(name, repository / name / CONFIG) for name in chosen]


def list_names(repository: Path) -> list[str]:
    """The names of a repository's models, whose configurations nobody has read yet.

    Raises:
        RepositoryError: there is no repository, or no model in it.
    """
    if not repository.is_dir():
        raise RepositoryError(
            f"There is no model repository at '{repository}'.", _export_into(repository)
        )
    try:
        names = [
            folder.name
            for folder in sorted(repository.iterdir())
            if not folder.name.startswith(".") and (folder / CONFIG).is_file()
        ]
    except PermissionError:
        raise RepositoryError(
            f"The model repository '{repository}' may not be read.",
            "Give this user the right to read it and all below it.",
        ) from None
    if not names:
        here = repository.absolute()
        for folder, kind in ((here, "model"), (here.parent, "version")):
            if (folder / CONFIG).is_file():
                parent = shlex.quote(str(folder.parent))
                raise RepositoryError(
                    f"'{repository}' is the folder of a {kind}, not a model repository.",
                    f"Give the folder that contains the model: --repository {parent}",
                )
        raise RepositoryError(
            f"There is no model in the repository '{repository}'.", _export_into(repository)
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
    config = read_config(path.parent)
    if any(character.isspace() for character in name):
        raise RepositoryError(
            f"The model '{name}' has a space in its name, which the server does not survive.",
            f"Rename the folder: {path.parent}",
        )
    if config.name and config.name != name:
        raise RepositoryError(
            f"The folder of model '{config.name}' is called '{name}'.",
            f"Rename the folder, or correct the name in {path}.",
        )
    return StoredModel(
        name,
        path.parent.resolve(),
        config.backend,
        config.complete,
        _version(path.parent, config.versions),
        config.runtime,
    )


def _version(folder: Path, allowed: Sequence[int]) -> int | None:
    """The newest version in a model's folder; if the configuration names any, of those."""
    found = (
        int(child.name)
        for child in folder.iterdir()
        # Triton passes over a folder whose number starts with a zero.
        if child.is_dir() and child.name.isdecimal() and not child.name.startswith("0")
    )
    return max((number for number in found if not allowed or number in allowed), default=None)
