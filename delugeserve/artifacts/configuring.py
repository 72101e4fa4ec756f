"""Changing how a server runs a model, in its ``config.pbtxt``, as ``configure`` does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delugeserve.artifacts.companions import companion_names
from delugeserve.artifacts.config_merge import write_in_place
from delugeserve.artifacts.config_message import describe, is_repeated, parse
from delugeserve.artifacts.model_config import FILE_NAME as CONFIG
from delugeserve.artifacts.model_config import parse_config
from delugeserve.artifacts.repository import list_names
from delugeserve.artifacts.serving_config import ServingConfig, apply_serving, read_serving
from delugeserve.artifacts.transaction import (
    Transaction,
    commit,
    lock_for_reading,
    lock_for_writing,
)
from delugeserve.errors import UnknownNameError


@dataclass(frozen=True)
class Configuration:
    """A model's settings, and how they change.

    Attributes:
        model: name of the model.
        path: its ``config.pbtxt``.
        before: the settings as they were.
        now: the settings as they are to be.
        changes: fields of the file that change, by place: the texts before and now; empty for a
            field that was or will be absent.
        text: the new text.
        lost: comments of the old text that are not in the new one.
    """

    model: str
    path: Path
    before: ServingConfig
    now: ServingConfig
    changes: Mapping[str, tuple[str, str]]
    text: str
    lost: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Whether anything changes."""
        return bool(self.changes)


def plan_configuration(repository: Path, model: str, settings: ServingConfig) -> Configuration:
    """Return what :func:`configure` would do; nothing is changed.

    It takes the same arguments and raises the same errors.
    """
    list_names(repository)
    with lock_for_reading(repository):
        return _plan(repository, model, settings)


def configure(repository: Path, model: str, settings: ServingConfig) -> Configuration:
    """Change a model's ``config.pbtxt`` in place; a running server follows.

    Comments and everything else that was written by hand stay. The next export keeps the settings.

    Args:
        repository: the model repository.
        model: name of the model, or of a companion.
        settings: what to change.

    Raises:
        UnknownNameError: there is no such model.
        RepositoryError: its configuration cannot be read or written.
        UsageError: a setting does not fit the model.
    """
    with lock_for_writing(repository):
        plan = _plan(repository, model, settings)
        if plan.changed:
            files: dict[str, str | None] = {f"{model}/{CONFIG}": plan.text}
            if plan.lost:
                files[f"{model}/{CONFIG}.before-configure"] = plan.path.read_bytes().decode()
            commit(repository, Transaction(files=files))
    return plan


def _plan(repository: Path, model: str, settings: ServingConfig) -> Configuration:
    path = repository / model / CONFIG
    names = [
        beside
        for name in list_names(repository)
        for beside in (name, *companion_names(name))
        if (repository / beside / CONFIG).is_file()
    ]
    if model not in names:
        raise UnknownNameError(f"model in '{repository}' named", model, names)
    parse_config(path)  # an error if it cannot be read
    text = path.read_bytes().decode()
    found, target = parse(text), parse(text)
    target.name = target.name or model
    apply_serving(settings, target)
    target.name = found.name
    edited, lost = (text, ()) if found == target else write_in_place(text, found, target)
    old, new = _leaves(found), _leaves(target)
    places = list(dict.fromkeys((*old, *new)))
    changes = {
        place: (old.get(place, ""), new.get(place, ""))
        for place in places
        if old.get(place) != new.get(place)
        # A message that was empty is in here by its fields.
        and not any(other.startswith(f"{place}.") for other in places)
    }
    return Configuration(
        model, path, read_serving(found), read_serving(target), changes, edited, lost
    )


def _leaves(message: Any, prefix: str = "") -> dict[str, str]:
    """Return the fields that are set as :func:`describe` does, but those within messages apart."""
    facts: dict[str, str] = {}
    for place, text in describe(message).items():
        descriptor = message.DESCRIPTOR.fields_by_name.get(place)
        one = descriptor is not None and descriptor.message_type and not is_repeated(descriptor)
        if one and (inside := _leaves(getattr(message, place), f"{prefix}{place}.")):
            facts |= inside
        else:
            facts[prefix + place] = text
    return facts
