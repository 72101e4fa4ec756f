"""Which version of a model is served: promote one, roll back, try one on a share of the requests.

Each version keeps how its export wanted it served, so promoting writes the whole configuration of
that version: its backend, batch size, parameters and labels, and those of its companions. What a
person wrote into ``config.pbtxt`` stays, as on an export.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delugeserve.artifacts.adoption import Adoption, find_adoption, stage_adoption
from delugeserve.artifacts.canary import FILE_NAME as CANARY
from delugeserve.artifacts.canary import Canary, read_canary
from delugeserve.artifacts.changes import (
    Changes,
    ServedVersion,
    check_classes,
    compare,
    describe_manifest,
    find_served,
)
from delugeserve.artifacts.companions import companion_of, find_companions
from delugeserve.artifacts.config_merge import ConfigMerge
from delugeserve.artifacts.config_message import parse
from delugeserve.artifacts.history import FILE_NAME as HISTORY
from delugeserve.artifacts.history import history_text, read_history
from delugeserve.artifacts.labels import FILE_NAME as LABELS
from delugeserve.artifacts.labels import read_labels
from delugeserve.artifacts.manifest import FILE_NAME as MANIFEST
from delugeserve.artifacts.manifest import check_files, find_manifest, read_manifest
from delugeserve.artifacts.members import Member, configure_members
from delugeserve.artifacts.remedies import export_command
from delugeserve.artifacts.repository import (
    list_names,
    repository_option,
    version_numbers,
)
from delugeserve.artifacts.serving_records import find_record, read_record
from delugeserve.artifacts.transaction import (
    Move,
    Transaction,
    commit,
    lock_for_reading,
    lock_for_writing,
)
from delugeserve.errors import RepositoryError, UnknownNameError, UsageError


@dataclass(frozen=True)
class Promotion:
    """A change of the version that is served.

    Attributes:
        model: name of the model.
        version: number of the version to serve.
        before: number of the version that was served; None if there was none.
        configs: the new configurations, and what they keep of the old ones: of the model and of its
            companions, by name.
        files: the new text of each file that changes, by path relative to the repository; None for
            a file that is deleted.
        off: companions that are not served, because this version has none.
        changes: what changes for clients; None if that is not known.
        ended: the canary that this ends; None if there is none.
        saved: old configurations that were kept, because the new ones lack comments of theirs.
        adopted: companions that get this version from another one.
    """

    model: str
    version: int
    before: int | None
    configs: Mapping[str, ConfigMerge]
    files: Mapping[str, str | None]
    off: tuple[str, ...] = ()
    changes: Changes | None = None
    ended: Canary | None = None
    saved: tuple[Path, ...] = ()
    adopted: tuple[Adoption, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether anything changes."""
        return bool(self.files)


def plan_promotion(
    repository: Path, model: str, version: int | None = None, *, replace_classes: bool = False
) -> Promotion:
    """Return what :func:`promote` would do; nothing is changed.

    It takes the same arguments and raises the same errors.
    """
    list_names(repository)
    with lock_for_reading(repository):
        return _plan(repository, model, version, replace_classes=replace_classes)


def promote(
    repository: Path, model: str, version: int | None = None, *, replace_classes: bool = False
) -> Promotion:
    """Serve a version of a model, and of its companions.

    Args:
        repository: the model repository.
        model: name of the model.
        version: number of the version; None takes that of the model's canary, or the newest.
        replace_classes: serve a version with other classes than now.

    Raises:
        UnknownNameError: there is no such model.
        RepositoryError: there is no such version, it is damaged or failed its verification, or the
            repository cannot be written.
        OtherClassesError: it has other classes.
    """
    with lock_for_writing(repository):
        plan = _plan(repository, model, version, replace_classes=replace_classes)
        return _carry_out(repository, plan)


def plan_rollback(repository: Path, model: str) -> Promotion:
    """Return what :func:`rollback` would do; nothing is changed.

    It takes the same arguments and raises the same errors.
    """
    list_names(repository)
    with lock_for_reading(repository):
        return _plan_rollback(repository, model)


def rollback(repository: Path, model: str) -> Promotion:
    """Serve the version that was served before, or end the model's canary if there is one.

    Other classes are allowed. Rolling back again goes one version further back.

    Args:
        repository: the model repository.
        model: name of the model.

    Raises:
        UnknownNameError: there is no such model.
        RepositoryError: no version was served before, it is damaged or failed its verification, or
            the repository cannot be written.
    """
    with lock_for_writing(repository):
        return _carry_out(repository, _plan_rollback(repository, model))


def set_canary(repository: Path, model: str, version: int | None, share: float) -> Canary:
    """Give a version a share of a model's requests; a running server follows.

    Args:
        repository: the model repository, which has at most one canary.
        model: name of the model.
        version: number of the version; None takes that of the model's canary, or the newest.
        share: fraction of the requests, above 0 and below 1.

    Raises:
        UnknownNameError: there is no such model.
        RepositoryError: there is no such version, it is served already, it is damaged or failed its
            verification, another model has a canary, or the repository cannot be written.
        OtherClassesError: it has other classes.
        UsageError: the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise UsageError(
            f"The share is {share:.4g}, but it must be above 0 and below 1.",
            "Use --share with a percentage such as 5%, or leave it out to serve the version alone.",
        )
    with lock_for_writing(repository):
        plan = _plan(repository, model, version)
        if plan.version == plan.before:
            raise RepositoryError(
                f"Version {plan.version} of '{model}' is served already.",
                f"Give another version (see: delugeserve versions {model}"
                f"{repository_option(repository)}).",
            )
        running = read_canary(repository)
        if running is not None and running.model != model:
            raise RepositoryError(
                f"'{running.model}' has a canary already (version {running.version}).",
                f"End it with: delugeserve rollback {running.model}{repository_option(repository)}",
            )
        canary = Canary(model, plan.version, share)
        moves = _stage(repository, plan)  # as its server needs them
        commit(repository, Transaction(moves, {CANARY: canary.to_text()}))
    return canary


def clear_canary(repository: Path) -> Canary | None:
    """End the repository's canary; return it, or None if there is none."""
    with lock_for_writing(repository):
        canary = read_canary(repository)
        if (repository / CANARY).exists():
            commit(repository, Transaction(files={CANARY: None}))
    return canary


def find_model(repository: Path, model: str) -> ServedVersion:
    """Return what a model serves; companions of another model are not models of their own.

    Args:
        repository: the model repository.
        model: name of the model.

    Raises:
        UnknownNameError: there is no such model.
        RepositoryError: it is a companion of another model, or its configuration cannot be read.
    """
    names = list_names(repository)
    folder = repository / model
    base = companion_of(folder)
    if base is not None:
        raise RepositoryError(
            f"'{model}' is a companion of '{base}' and always serves the same version.",
            f"Give the name of that model: {base}",
        )
    served = find_served(folder) if model in names else None
    if served is None:
        raise UnknownNameError(f"model in '{repository}' named", model, names)
    return served


def configs_of(repository: Path, model: str, version: int) -> Mapping[str, str]:
    """Return the configurations that would serve a version, by model: its own and its companions'.

    This is what a canary serves. The caller holds the repository's lock, for reading at least.
    Errors are those of :func:`promote`.
    """
    plan = _plan(repository, model, version, replace_classes=True)
    missing = {one.name for one in plan.adopted}
    return {name: merge.text for name, merge in plan.configs.items() if name not in missing}


def _plan_rollback(repository: Path, model: str) -> Promotion:
    served = find_model(repository, model)
    canary = read_canary(repository)
    if canary is not None and canary.model == model and served.number is not None:
        return Promotion(model, served.number, served.number, {}, {CANARY: None}, ended=canary)
    folder, now = repository / model, served.number
    numbers = version_numbers(folder)
    earlier = [one for one in read_history(folder, now) if one in numbers]
    while earlier and earlier[-1] == now:  # after a change by hand
        earlier.pop()
    if not earlier:
        raise RepositoryError(
            f"'{model}' has no version that was served before version {now}.",
            f"Choose one of its versions (see: delugeserve versions {model}"
            f"{repository_option(repository)}) and promote it.",
        )
    plan = _plan(repository, model, earlier[-1], replace_classes=True)
    files = {**plan.files, f"{model}/{HISTORY}": history_text(earlier[:-1])}
    return dataclasses.replace(plan, files=files)


def _plan(
    repository: Path, model: str, version: int | None, *, replace_classes: bool = False
) -> Promotion:
    served, canary = find_model(repository, model), read_canary(repository)
    if canary is not None and canary.model != model:
        canary = None
    folder = repository / model
    number = _choose(folder, version, canary)
    facts, class_names = _check(folder / str(number))
    if class_names is not None and number != served.number and not replace_classes:
        check_classes(
            served,
            class_names,
            "Promote a version with the same classes, or use --replace-classes to serve this one.",
        )
    folders = [folder, *find_companions(folder, off=True)]
    members, adopted = [], []
    manifest = find_manifest(folder, number)
    for one in folders:
        files = one / str(number)
        if one == folder or files.is_dir():
            members.append(Member(one.name, files, find_record(one, number)))
        elif manifest is not None and (found := find_adoption(one, manifest)):
            members.append(Member(one.name, found.source, found.record))
            adopted.append(found)
    fixed = frozenset(key for one in folders for key in _generated_parameters(one))
    configured = configure_members(repository, members, number, fixed, "promote")
    texts = dict(configured.texts)
    if canary is not None:
        texts[CANARY] = None
    changes = None
    if served.number is not None and served.number != number:
        past = (*read_history(folder, served.number), served.number)
        texts[f"{model}/{HISTORY}"] = history_text(past)
        if facts is not None:
            changes = compare(served, class_names or (), facts)
    return Promotion(
        model,
        number,
        served.number,
        configured.merges,
        texts,
        configured.off,
        changes,
        canary,
        configured.saved,
        tuple(adopted),
    )


def _choose(folder: Path, version: int | None, canary: Canary | None) -> int:
    """Return the number of the version to serve."""
    numbers = version_numbers(folder)
    if version is None:
        version = canary.version if canary is not None else max(numbers, default=None)
    if version is None:
        raise RepositoryError(
            f"'{folder.name}' has no version.",
            f"Export one with: {export_command(folder, None)}",
            folder,
        )
    if version not in numbers:
        raise RepositoryError(
            f"'{folder.name}' has no version {version}.",
            f"Choose one of: {', '.join(map(str, numbers))}."
            if numbers
            else f"Export one with: {export_command(folder, None)}",
            folder,
        )
    return version


def _check(folder: Path) -> tuple[Mapping[str, Any] | None, tuple[str, ...] | None]:
    """Return the facts and the classes of a version that may be served; None if not known."""
    if not (folder / MANIFEST).is_file():
        path = folder / LABELS
        return None, read_labels(path) if path.is_file() else None
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    if manifest.verification.status == "failed":
        failures = "; ".join(check.name for check in manifest.verification.failures)
        raise RepositoryError(
            f"The last verification of version {folder.name} of '{folder.parent.name}' failed"
            f"{f' ({failures})' if failures else ''}.",
            "Restore the runtime that it was exported with, then verify it again with: "
            f"delugeserve verify {shlex.quote(str(folder))}",
            folder,
        )
    return describe_manifest(manifest), manifest.network.task.class_names


def _generated_parameters(folder: Path) -> Iterator[str]:
    """Return the keys of the parameters that exports of a model generated."""
    for number in version_numbers(folder):
        text = read_record(folder, number)
        if text is not None:
            yield from parse(text).parameters


def _carry_out(repository: Path, plan: Promotion) -> Promotion:
    if plan.changed:
        commit(repository, Transaction(_stage(repository, plan), plan.files))
    return plan


def _stage(repository: Path, plan: Promotion) -> tuple[Move, ...]:
    """Copy the companions' versions that are adopted; return the moves that add them."""
    return tuple(stage_adoption(repository, one, plan.model, plan.version) for one in plan.adopted)
