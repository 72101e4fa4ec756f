"""A release: a frozen copy of what a repository serves.

A replica gets a copy of each ``config.pbtxt`` and links to the versions it serves. A change of the
repository therefore reaches neither a running replica nor the one that replaces it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from delugeserve.artifacts.canary import Canary, read_canary
from delugeserve.artifacts.companions import companion_of
from delugeserve.artifacts.manifest import find_manifest
from delugeserve.artifacts.model_config import FILE_NAME as CONFIG
from delugeserve.artifacts.model_config import ModelConfig, parse_config
from delugeserve.artifacts.promotion import configs_of
from delugeserve.artifacts.repository import (
    StoredModel,
    list_names,
    version_numbers,
)
from delugeserve.artifacts.served_labels import models_to_serve, served_versions
from delugeserve.artifacts.transaction import LOCK, lock_for_reading
from delugeserve.errors import DelugeServeError, RepositoryError

_log = logging.getLogger(__name__)

_ID_DIGITS = 12
_LARGEST_COPY = 1 << 20  # bytes; larger files beside config.pbtxt are linked


@dataclass(frozen=True)
class FrozenModel:
    """A model of a release.

    Attributes:
        stored: the model in the repository, with the version that is served.
        files: contents of the files that are copied, by name; ``config.pbtxt`` is one of them.
        links: names of the versions, folders and large files that are linked.
        digest: SHA-256 of everything that decides how the model answers, in hexadecimal.
        config: its configuration.
    """

    stored: StoredModel
    files: Mapping[str, bytes]
    links: tuple[str, ...]
    digest: str
    config: ModelConfig

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.stored.name


@dataclass(frozen=True)
class Release:
    """What a replica serves.

    Attributes:
        id: first 12 hexadecimal digits of a SHA-256 over all models.
        repository: where it was taken from.
        models: sorted by name, each followed by its companions.
    """

    id: str
    repository: Path
    models: tuple[FrozenModel, ...]

    @property
    def versions(self) -> dict[str, int | None]:
        """The version of each model; its companions have the same."""
        return {
            model.name: model.stored.version
            for model in self.models
            if not model.stored.companion_of
        }

    @property
    def stored(self) -> tuple[StoredModel, ...]:
        """The models as they are stored in the repository."""
        return tuple(model.stored for model in self.models)

    def place(self, folder: Path) -> None:
        """Write the release into an existing folder, as a repository for one server.

        Raises:
            OSError: the folder cannot be written.
        """
        for model in self.models:
            target = folder / model.name
            target.mkdir()
            for name, content in model.files.items():
                (target / name).write_bytes(content)
            for name in model.links:
                (target / name).symlink_to(model.stored.folder / name)


@dataclass(frozen=True)
class Wish:
    """What a repository asks for.

    Attributes:
        release: what shall be served.
        canary: what shall get a share of the requests; None for none.
        share: fraction of the requests that the canary gets.
    """

    release: Release
    canary: Release | None = None
    share: float = 0.0


def take_wish(repository: Path, names: Sequence[str] | None = None) -> Wish:
    """Take a release of what a repository serves now.

    Args:
        repository: the model repository.
        names: the models to serve; None for all.

    Raises:
        RepositoryError: there is no repository, no model in it, or a model cannot be read.
        UnknownNameError: there is no model of a given name.
    """
    list_names(repository)  # before a lock file is created in what is no repository
    try:
        with lock_for_reading(repository):
            models = [_freeze(one) for one in models_to_serve(repository, names)]
            canary, tried = _take_canary(repository, models)
    except OSError as error:
        raise RepositoryError(
            f"The model repository '{repository}' cannot be read: {error.strerror or error}.",
            "Check the permissions and the file system of the repository.",
            repository,
        ) from error
    release = make_release(repository, models)
    if canary is None:
        return Wish(release)
    return Wish(release, make_release(repository, tried), canary.share)


def _take_canary(
    repository: Path, models: Sequence[FrozenModel]
) -> tuple[Canary | None, list[FrozenModel]]:
    """Return the canary and what it serves; None if there is none that can be served."""
    try:
        canary = read_canary(repository)
        if canary is None or canary.model not in (model.name for model in models):
            return None, []
        texts = configs_of(repository, canary.model, canary.version)
    except DelugeServeError as error:  # no reason to keep the release from the others
        _log.warning("The canary is not served: %s", error)
        return None, []
    tried = []
    for one in models:
        if one.name in texts:
            stored = _in_version(one.stored, canary.version, texts[one.name])
            tried.append(_freeze(stored, texts[one.name]))
        elif one.stored.companion_of != canary.model:  # else its version has no such companion
            tried.append(one)
    return canary, tried


def make_release(repository: Path, models: Sequence[FrozenModel]) -> Release:
    """Return the release of some models."""
    digest = hashlib.sha256()
    for model in models:
        digest.update(f"{model.name}\0{model.digest}\0".encode())
    return Release(digest.hexdigest()[:_ID_DIGITS], repository, tuple(models))


def look(repository: Path, names: Sequence[str] | None = None) -> object:
    """Return a value that differs from an earlier one if the repository may have changed.

    Only names, sizes and times are read, without a lock.
    """
    seen: list[object] = []
    try:
        folders = [repository, *sorted(repository.iterdir())]
        for folder in folders:
            inside = folder != repository
            if inside and folder.name.startswith("."):
                continue
            if inside and names and not {folder.name, companion_of(folder)} & set(names):
                continue
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if not inside and path.name == LOCK:
                    continue
                status = path.stat()
                # A version's folder changes when its verification is repeated, which is no change.
                file = (status.st_size, status.st_mtime_ns) if path.is_file() else ()
                seen.append((folder.name, path.name, status.st_ino, file))
    except OSError as error:  # it is being changed
        seen.append(str(error))
    return tuple(seen)


def _in_version(stored: StoredModel, version: int, text: str) -> StoredModel:
    """Return a model as another configuration serves it."""
    config = parse_config(stored.folder / CONFIG, text.encode())
    return dataclasses.replace(
        stored,
        version=version,
        backend=config.backend,
        complete=config.complete,
        runtime=config.runtime,
    )


def _freeze(stored: StoredModel, text: str | None = None) -> FrozenModel:
    """Return a copy of a model, with another configuration if one is given."""
    files: dict[str, bytes] = {}
    links: list[str] = []
    content = (stored.folder / CONFIG).read_bytes() if text is None else text.encode()
    config = parse_config(stored.folder / CONFIG, content)
    served = served_versions(stored.folder, config)
    numbers = {str(number) for number in version_numbers(stored.folder)}
    for path in sorted(stored.folder.iterdir()):
        name = path.name
        if name.startswith((".", f"{CONFIG}.")) or (name in numbers and int(name) not in served):
            continue
        if name == CONFIG:
            files[name] = content
        elif path.is_file() and path.stat().st_size <= _LARGEST_COPY:
            files[name] = path.read_bytes()
        else:
            links.append(name)
    return FrozenModel(stored, files, tuple(links), _digest(stored, files, links), config)


def _digest(stored: StoredModel, files: Mapping[str, bytes], links: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    for name in links:
        manifest = find_manifest(stored.folder, int(name)) if name.isdecimal() else None
        digest.update(f"{name}\0".encode())
        target = stored.folder / name
        paths = [target] if target.is_file() else sorted(target.rglob("*"))
        for path in paths:
            # The manifest changes when a version is verified again, and other files may be added.
            if path.is_file() and (manifest is None or path.name in manifest.files):
                status = path.stat()
                place = path.relative_to(stored.folder)
                digest.update(f"{place}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()
