"""The canary of a repository: a version that gets a share of its model's requests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from delugeserve.artifacts.typed_json import from_json, to_json
from delugeserve.errors import RepositoryError

FILE_NAME = ".canary.json"


@dataclass(frozen=True)
class Canary:
    """A version that gets a share of its model's requests.

    Attributes:
        model: name of the model.
        version: number of the version.
        share: fraction of the requests, above 0 and below 1.
    """

    model: str
    version: int
    share: float

    def to_text(self) -> str:
        """Return the text of the file."""
        return json.dumps(to_json(self)) + "\n"


def read_canary(repository: Path) -> Canary | None:
    """Return the repository's canary; None if there is none.

    Raises:
        RepositoryError: its file is damaged.
    """
    path = repository / FILE_NAME
    try:
        return from_json(Canary, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RepositoryError(
            f"{path} cannot be read ({error}).", "Delete it to end the canary.", path
        ) from error
