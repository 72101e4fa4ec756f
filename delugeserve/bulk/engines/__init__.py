"""What labels: a running server, an exported version in this process, or a Ray cluster."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from delugeserve.artifacts.manifest import FILE_NAME
from delugeserve.artifacts.references import resolve_version
from delugeserve.bulk.engines.client import ClientLabeller, Endpoint

if TYPE_CHECKING:
    from delugeserve.bulk.labelling import Labeller


@dataclass(frozen=True)
class InProcess:
    """An exported version that runs in the process itself; it can be sent to another one.

    Attributes:
        folder: the version's folder.
        max_pixels: the most pixels of an image; None for the client's limit.
    """

    folder: Path
    max_pixels: int | None = None

    @classmethod
    def find(
        cls, text: str, version: str | None = None, max_pixels: int | None = None
    ) -> InProcess:
        """Find a version.

        Args:
            text: the folder of a version or of a model, or the name of a model in the repository.
            version: of a model, the version to take if it is there; None for the one that is
                served.
            max_pixels: see above.

        Raises:
            UsageError: there is no such version.
        """
        folder = resolve_version(text)
        other = folder.parent / (version or folder.name)
        if folder.resolve() != Path(text).resolve() and (other / FILE_NAME).is_file():
            folder = other
        return cls(folder, max_pixels)

    def absolute(self) -> InProcess:
        """Return it for a process in another folder."""
        return dataclasses.replace(self, folder=self.folder.resolve())


Engine: TypeAlias = "Endpoint | InProcess"
"""What labels, before it is opened."""


def open_labeller(engine: Engine) -> Labeller:
    """Open what labels.

    Raises:
        ClientError: the server does not answer, or does not serve the model.
        UsageError: the version cannot be loaded.
    """
    if isinstance(engine, Endpoint):
        return ClientLabeller(engine)
    from delugeserve.bulk.engines.in_process import InProcessLabeller

    return InProcessLabeller(engine.folder, engine.max_pixels)
