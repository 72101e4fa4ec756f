"""Which versions of a model were served before the current one: what ``rollback`` goes back to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from delugeserve.artifacts.repository import version_numbers
from delugeserve.artifacts.typed_json import from_json, to_json

FILE_NAME = ".served.json"
_LONGEST = 100


@dataclass(frozen=True)
class _History:
    """The file.

    Attributes:
        before: numbers of the versions that were served, the latest last.
    """

    before: tuple[int, ...]


def read_history(folder: Path, served: int | None) -> tuple[int, ...]:
    """Return the versions that were served before the current one, the latest last.

    Without the file, as in a repository of an older release, they are those of a lower number.

    Args:
        folder: the model's folder.
        served: number of the version that is served; None for none.
    """
    try:
        text = (folder / FILE_NAME).read_text(encoding="utf-8")
        before = from_json(_History, json.loads(text)).before
    except (OSError, ValueError):
        before = tuple(version_numbers(folder))
        before = tuple(one for one in before if served is not None and one < served)
    return before


def history_text(before: Sequence[int]) -> str:
    """Return the text of the file."""
    return json.dumps(to_json(_History(tuple(before)[-_LONGEST:]))) + "\n"
