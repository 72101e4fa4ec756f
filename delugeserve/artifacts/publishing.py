"""Publishing a version into a Triton model repository that can be loaded at every moment.

A version's files are in ``<repository>/<model>/<version>/``. ``config.pbtxt`` names the version to
serve. Both, and those of the model's companions, change in one
:mod:`transaction <delugeserve.artifacts.transaction>`: before it commits, the server finds the old
version, after it the new one. A kill in between leaves an unused folder.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from delugeserve.artifacts.canary import FILE_NAME as CANARY
from delugeserve.artifacts.canary import read_canary
from delugeserve.artifacts.changes import ServedVersion, check_classes, find_served
from delugeserve.artifacts.config_merge import ConfigMerge
from delugeserve.artifacts.history import FILE_NAME as HISTORY
from delugeserve.artifacts.history import history_text, read_history
from delugeserve.artifacts.labels import FILE_NAME as LABELS
from delugeserve.artifacts.labels import read_labels
from delugeserve.artifacts.members import Member, configure_members
from delugeserve.artifacts.model_config import FILE_NAME as CONFIG
from delugeserve.artifacts.model_config import ModelConfig
from delugeserve.artifacts.names import check_model_name
from delugeserve.artifacts.repository import check_not_nested
from delugeserve.artifacts.serving_records import GENERATED
from delugeserve.artifacts.transaction import (
    LOCK,
    Move,
    Transaction,
    commit,
    lock_repository,
    relative,
)
from delugeserve.errors import RepositoryError
from delugeserve.system.files import is_owner
from delugeserve.system.imports import require

_REMEDY = "Nothing was published. Free some space, or use another --repository."


@contextmanager
def staging(repository: Path, remedy: str = _REMEDY) -> Iterator[Path]:
    """Yield a private folder on the repository's file system, removed at the end.

    Args:
        repository: the model repository.
        remedy: what to do if the folder cannot be written, for the error.

    Raises:
        RepositoryError: the repository cannot be written, or its disk is full.
    """
    filelock = require("filelock", "export")
    try:
        repository.mkdir(parents=True, exist_ok=True)
        home = _staging_home(repository.resolve())
        prefix = f".{repository.resolve().name}-staging-"
        with contextlib.ExitStack() as stack:
            # The repository's lock keeps others from sweeping the folder before it is locked.
            with lock_repository(repository):
                _sweep(home, prefix)
                folder = stack.enter_context(
                    tempfile.TemporaryDirectory(prefix=prefix, dir=home, ignore_cleanup_errors=True)
                )
                stack.enter_context(filelock.FileLock(Path(folder) / LOCK))
            yield Path(folder)
    except OSError as error:
        raise RepositoryError(
            f"The model repository {repository} cannot be written: {error.strerror or error}.",
            remedy,
        ) from error


@dataclass(frozen=True)
class Published:
    """A published version.

    Attributes:
        folder: the version's folder.
        before: what was served until now; None for a new model.
        config: the new configuration, and what it keeps of the old one.
        saved: where the old configuration was saved, because the new one lacks parts of it; None
            if it lacks none.
    """

    folder: Path
    before: ServedVersion | None
    config: ConfigMerge
    saved: Path | None


def publish(
    staged: Path,
    repository: Path,
    config: ModelConfig,
    version: int | None = None,
    *,
    companions: Sequence[Member] = (),
    fixed_parameters: frozenset[str] = frozenset(),
    replace_classes: bool = False,
) -> Published:
    """Move a staged version into the repository and serve it.

    Args:
        staged: folder with the version's files, on the repository's file system.
        repository: the model repository.
        config: how to serve it; the version is filled in here, and settings that were written into
            ``config.pbtxt`` by hand are kept.
        version: its number; None takes the next.
        companions: models that are published with it, in the same version.
        fixed_parameters: keys of parameters that set how an artefact computes, which are not kept.
        replace_classes: publish over a model with other classes.

    Raises:
        RepositoryError: the version exists, or the model's ``config.pbtxt`` cannot be read.
        OtherClassesError: the model has other classes.
    """
    with lock_repository(repository):
        folder = repository / config.name
        members = [Member(config.name, staged, config.to_text()), *companions]
        version = max(free_version(repository / member.name, version) for member in members)
        served = find_served(folder)
        if not replace_classes:
            check_classes(served, read_labels(staged / LABELS))
        found = configure_members(
            repository,
            members,
            version,
            fixed_parameters,
            "export",
        )
        files = dict(found.texts)
        if served is not None and served.number is not None:
            past = (*read_history(folder, served.number), served.number)
            files[f"{config.name}/{HISTORY}"] = history_text(past)
        canary = read_canary(repository)
        if canary is not None and canary.model == config.name:
            files[CANARY] = None
        moves = []
        for member in members:
            target = repository / member.name
            if member.files != staged:
                (member.files / GENERATED).write_text(member.record, encoding="utf-8")
            _flush(member.files)
            if target.is_dir():
                moves.append(_move(repository, member.files, target / str(version)))
                continue
            whole = staged.parent / "whole" / member.name
            whole.mkdir(parents=True)
            member.files.replace(whole / str(version))
            if not folder.is_dir():  # a new model appears whole, or not at all
                text = files.pop(f"{member.name}/{CONFIG}") or ""
                (whole / CONFIG).write_bytes(text.encode())
                _flush(whole)
            moves.append(_move(repository, whole, target))
        commit(repository, Transaction(tuple(moves), files))
    return Published(
        folder / str(version),
        served,
        found.merges[config.name],
        next((path for path in found.saved if path.parent == folder), None),
    )


def _move(repository: Path, source: Path, target: Path) -> Move:
    return Move(relative(repository, source), relative(repository, target))


def check_target(repository: Path, name: str) -> None:
    """Check before the work that a model can be published.

    Args:
        repository: the model repository; it need not exist.
        name: name of the model.

    Raises:
        RepositoryError: the repository or the model's folder is a file, or cannot be written, or
            the repository is the folder of a model.
        ModelNameError: no model can have this name.
    """
    check_model_name(name)
    check_not_nested(repository)
    folder = repository / name
    for path, what in ((repository, "a model repository"), (folder, "the folder of a model")):
        if path.exists() and not path.is_dir():
            remedy = "Use --repository with the path of a folder."
            if path == folder:
                remedy = "Move the file elsewhere, or use --name with another name."
            raise RepositoryError(f"{path} is a file, not {what}.", remedy, path)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise RepositoryError(
            f"The model repository {repository} cannot be made: {existing} is a file.",
            "Use --repository with the path of a folder.",
            existing,
        )
    # The repository has the lock, and the model's folder the version.
    for path in {existing, repository} if repository.is_dir() else {existing}:
        if not os.access(path, os.W_OK | os.X_OK):
            raise RepositoryError(
                f"The model repository {repository} cannot be written: {path} is not writable.",
                f"Make it writable (chmod u+wx {shlex.quote(str(path))}), or use another "
                "--repository."
                if is_owner(path)
                else "Use another --repository, or have its owner give this user write access.",
                path,
            )


def free_version(folder: Path, wanted: int | None = None) -> int:
    """Return the number of a new version.

    Args:
        folder: the model's.
        wanted: the number asked for; None for the next one.

    Raises:
        RepositoryError: the version exists, or the number is less than 1.
    """
    taken = [int(child.name) for child in _children(folder) if child.name.isdecimal()]
    free = max(taken, default=0) + 1
    if wanted in taken:
        raise RepositoryError(
            f"{folder} already has a version {wanted}.",
            f"Use --version {free}, or leave --version out.",
        )
    if wanted is not None and wanted < 1:
        raise RepositoryError(
            f"--version is {wanted}, but versions are numbered from 1.", f"Use --version {free}."
        )
    return wanted or free


def _staging_home(repository: Path) -> Path:
    """Return the folder to stage in: the parent, since a server takes folders inside for models.

    If the parent is not writable, or is on another file system, it is the repository itself:
    ``delugeserve serve`` ignores hidden folders.
    """
    parent = repository.parent
    movable = parent.stat().st_dev == repository.stat().st_dev
    return parent if movable and os.access(parent, os.W_OK | os.X_OK) else repository


def _sweep(home: Path, prefix: str) -> None:
    """Remove the staging folders of killed exports, which no longer hold their locks."""
    filelock = require("filelock", "export")
    for folder in home.glob(f"{prefix}*"):
        with (
            contextlib.suppress(OSError, filelock.Timeout),
            filelock.FileLock(folder / LOCK, timeout=0),
        ):
            shutil.rmtree(folder, ignore_errors=True)


def _children(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _flush(folder: Path) -> None:
    """Flush the files of a folder to the disk before it is renamed into place."""
    for path in folder.iterdir():
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
