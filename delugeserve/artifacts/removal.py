"""Remove models and versions that are not served."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from delugeserve.artifacts.canary import FILE_NAME as CANARY
from delugeserve.artifacts.canary import read_canary
from delugeserve.artifacts.changes import find_served
from delugeserve.artifacts.companions import find_companions
from delugeserve.artifacts.history import read_history
from delugeserve.artifacts.promotion import find_model
from delugeserve.artifacts.publishing import staging
from delugeserve.artifacts.repository import (
    list_names,
    repository_option,
    version_numbers,
)
from delugeserve.artifacts.served_labels import served_versions
from delugeserve.artifacts.transaction import (
    Move,
    Transaction,
    commit,
    lock_for_reading,
    lock_repository,
    relative,
)
from delugeserve.errors import RepositoryError

_REMEDY = "Run the command as a user who may write there."


@dataclass(frozen=True)
class Removal:
    """A version to remove, or a whole model.

    Attributes:
        model: name of the model.
        version: number of the version; None for the whole model.
        folders: what is removed: of the model and of its companions.
        bytes: their size.
    """

    model: str
    version: int | None
    folders: tuple[Path, ...]
    bytes: int


InUse = Collection[tuple[str, int | None]]
"""Models and versions that running servers serve; they are not removed."""


def plan_removal(
    repository: Path, model: str, version: int | None = None, in_use: InUse = ()
) -> Removal:
    """Return what :func:`remove` would do; nothing is changed.

    It takes the same arguments and raises the same errors.
    """
    find_model(repository, model)
    with lock_for_reading(repository):
        return _plan(repository, model, version, in_use)


def remove(repository: Path, model: str, version: int | None = None, in_use: InUse = ()) -> Removal:
    """Remove a version that is not served, or a whole model.

    Args:
        repository: the model repository.
        model: name of the model.
        version: number of the version; None removes the model.
        in_use: what running servers serve.

    Raises:
        UnknownNameError: there is no such model.
        RepositoryError: there is no such version, it is served, the canary or in use, or the
            repository cannot be written.
    """
    find_model(repository, model)
    with staging(repository, _REMEDY) as away, lock_repository(repository):
        plan = _plan(repository, model, version, in_use)
        _carry_out(repository, away, [plan])
    return plan


def plan_gc(repository: Path, keep: int, in_use: InUse = ()) -> tuple[Removal, ...]:
    """Return what :func:`collect` would remove; nothing is changed.

    It takes the same arguments.
    """
    list_names(repository)
    with lock_for_reading(repository):
        return _plan_gc(repository, keep, in_use)


def collect(repository: Path, keep: int, in_use: InUse = ()) -> tuple[Removal, ...]:
    """Remove old versions of all models.

    The version that is served, the canary and the version that ``rollback`` would serve stay.

    Args:
        repository: the model repository.
        keep: number of the newest versions of each model that stay as well.
        in_use: what running servers serve, which stays.

    Raises:
        RepositoryError: the repository or a configuration cannot be read, or it cannot be written.
    """
    list_names(repository)
    with staging(repository, _REMEDY) as away, lock_repository(repository):
        plans = _plan_gc(repository, keep, in_use)
        _carry_out(repository, away, plans)
    return plans


def _plan(repository: Path, model: str, version: int | None, in_use: InUse) -> Removal:
    folder = repository / model
    folders = [*reversed(find_companions(folder, off=True)), folder]
    running = [number for name, number in in_use if name == model]
    if version is None:
        if running:
            raise RepositoryError(
                f"A running server serves '{model}'.", "Stop that server first.", folder
            )
        return _describe(model, None, folders)
    served, canary = find_model(repository, model), read_canary(repository)
    numbers, option = version_numbers(folder), repository_option(repository)
    if version not in numbers:
        raise RepositoryError(
            f"'{model}' has no version {version}.",
            f"Choose one of: {', '.join(map(str, numbers))}.",
            folder,
        )
    if version in (served.number, *served_versions(folder, served.config)):
        others = [number for number in numbers if number != version]
        remedy = f"Remove the model with: delugeserve remove {shlex.quote(model)}{option}"
        if others:
            promote = f"delugeserve promote {shlex.quote(model)} {others[-1]}{option}"
            remedy = f"Promote another version first: {promote}"
        raise RepositoryError(f"Version {version} of '{model}' is served.", remedy, folder)
    if canary is not None and (canary.model, canary.version) == (model, version):
        raise RepositoryError(
            f"Version {version} of '{model}' is the canary.",
            f"End it first: delugeserve rollback {shlex.quote(model)}{option}",
            folder,
        )
    if version in running:
        raise RepositoryError(
            f"A running server still serves version {version} of '{model}'.",
            "Wait until it has switched, or stop it.",
            folder,
        )
    return _describe(model, version, [one / str(version) for one in folders])


def _plan_gc(repository: Path, keep: int, in_use: InUse) -> tuple[Removal, ...]:
    canary, plans = read_canary(repository), []
    for name in list_names(repository):
        folder = repository / name
        served = find_served(folder)
        if served is None:  # it was removed just now
            continue
        numbers = version_numbers(folder)
        before = [one for one in read_history(folder, served.number) if one in numbers]
        newest = numbers[max(0, len(numbers) - keep) :]
        kept = {served.number, *served_versions(folder, served.config), *before[-1:], *newest}
        kept |= {number for model, number in in_use if model == name}
        if canary is not None and canary.model == name:
            kept.add(canary.version)
        plans += [_plan(repository, name, one, in_use) for one in numbers if one not in kept]
    return tuple(plans)


def _describe(model: str, version: int | None, folders: Sequence[Path]) -> Removal:
    existing = tuple(folder for folder in folders if folder.is_dir())
    size = sum(
        path.stat().st_size for folder in existing for path in folder.rglob("*") if path.is_file()
    )
    return Removal(model, version, existing, size)


def _carry_out(repository: Path, away: Path, plans: Sequence[Removal]) -> None:
    """Move the folders out of the repository at once; ``away`` is deleted afterwards."""
    folders = [folder for plan in plans for folder in plan.folders]
    if not folders:
        return
    moves = tuple(
        Move(relative(repository, folder), relative(repository, away / str(place)))
        for place, folder in enumerate(folders)
    )
    canary = read_canary(repository)
    whole = {plan.model for plan in plans if plan.version is None}
    ended: dict[str, str | None] = {CANARY: None} if canary and canary.model in whole else {}
    commit(repository, Transaction(moves, ended))
