"""What labels images: the interface, and what it says about its model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from delugeserve.bulk.items import Item
from delugeserve_client import Classification


@dataclass(frozen=True)
class ModelIdentity:
    """Which model labels; it is in every row of the output.

    Attributes:
        name: the model's name.
        version: the version's number; empty if it is not known.
        digest: the first 16 hex digits of the artefact's SHA-256; None if it is not known.
    """

    name: str
    version: str
    digest: str | None = None

    def matches(self, other: ModelIdentity) -> bool:
        """Return whether both may be the same; a digest that is not known fits any."""
        digests = {self.digest, other.digest} - {None}
        return (self.name, self.version) == (other.name, other.version) and len(digests) <= 1

    def __str__(self) -> str:
        version = f" version {self.version}" if self.version else ""
        return f"'{self.name}'{version}{f' ({self.digest})' if self.digest else ''}"


class Labels(Protocol):
    """Labels images."""

    def label(self, items: Iterable[Item], top_k: int) -> Iterator[Classification]:
        """Yield one result for each item, in order; items are taken as they are needed.

        Raises:
            ClientError: the server stopped answering. Everything answered before was yielded.
        """


class Labeller(Labels, Protocol):
    """Labels images with one model."""

    @property
    def model(self) -> ModelIdentity:
        """The model."""

    def close(self) -> None:
        """Release what it holds."""
