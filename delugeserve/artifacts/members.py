"""A model and its companions, which always serve the same version: their next configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from delugeserve.artifacts.changes import find_served
from delugeserve.artifacts.companions import OFF, find_companions
from delugeserve.artifacts.config_merge import ConfigMerge
from delugeserve.artifacts.config_message import parse
from delugeserve.artifacts.config_update import same_settings, update_config
from delugeserve.artifacts.model_config import FILE_NAME as CONFIG


@dataclass(frozen=True)
class Member:
    """A model, or a companion of it, in the version to serve.

    Attributes:
        name: name of its folder in the repository.
        files: folder with the files of its version.
        record: what its export generated as ``config.pbtxt``, whatever version that serves.
    """

    name: str
    files: Path
    record: str


@dataclass(frozen=True)
class MemberConfigs:
    """The configurations that serve a version.

    Attributes:
        merges: the new configurations, and what they keep of the old ones, by model.
        texts: the new texts of the files that change, by path relative to the repository; None for
            a file that is deleted.
        off: companions that are not served, because the version has none.
        saved: files of ``texts`` that keep an old configuration, because the new one lacks comments
            of it.
    """

    merges: Mapping[str, ConfigMerge]
    texts: Mapping[str, str | None]
    off: tuple[str, ...]
    saved: tuple[Path, ...]


def configure_members(
    repository: Path,
    members: Sequence[Member],
    version: int,
    fixed_parameters: frozenset[str],
    command: str,
) -> MemberConfigs:
    """Return the configurations that serve a version of a model and of its companions.

    Args:
        repository: the model repository.
        members: the model, then its companions that have this version.
        version: its number.
        fixed_parameters: keys of parameters that set how an artefact computes.
        command: the command that writes the files.

    Raises:
        RepositoryError: a configuration cannot be read.
    """
    merges: dict[str, ConfigMerge] = {}
    texts: dict[str, str | None] = {}
    saved = []
    largest: int | None = None
    for member in members:
        folder = repository / member.name
        now = find_served(folder) or find_served(folder, OFF)
        merged = update_config(
            now, member.files, member.record, version, fixed_parameters, command, largest
        )
        if largest is None:  # an ensemble's batches are no larger than its models'
            largest = parse(merged.text).max_batch_size
        merges[member.name] = merged
        was_off = now is not None and now.file.name == OFF
        if now is None or was_off or not same_settings(now.text, merged.text):
            texts[f"{member.name}/{CONFIG}"] = merged.text
        if was_off:
            texts[f"{member.name}/{OFF}"] = None
        if now is not None and merged.lost:
            saved.append(folder / f"{CONFIG}.before-{version}")
            texts[f"{member.name}/{saved[-1].name}"] = now.text
    beside = find_companions(repository / members[0].name, off=True)
    off = [folder.name for folder in beside if folder.name not in merges]
    for name in off:
        served = find_served(repository / name)
        if served is not None:
            texts[f"{name}/{OFF}"] = served.text
            texts[f"{name}/{CONFIG}"] = None
    return MemberConfigs(merges, texts, tuple(off), tuple(saved))
