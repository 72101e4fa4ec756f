"""What labels images: the interface, and what it says about its model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from delugeserve.bulk.items import Item
from delugeserve_client import Classification

BLOCK = 256
"""Images of a block. Where a block begins depends on the images alone, and requests do not cross
blocks: the last digits of a probability depend on how many images a request has, so that a run that
resumes, or another process, must put the same images together."""


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


class Labeller(Protocol):
    """Labels images with one model."""

    def label(self, items: Iterable[Item], top_k: int) -> Iterator[Classification]:
        """Yield one result for each item, in order; items are taken as they are needed.

        The first item begins a block.

        Raises:
            ClientError: the server stopped answering. All results before that were yielded.
        """

    @property
    def model(self) -> ModelIdentity:
        """The model."""

    @property
    def classes(self) -> int:
        """The number of its classes."""

    def close(self) -> None:
        """Release what it holds."""


def begins_block(item: Item, last: Item | None, size: int) -> bool:
    """Return whether an item begins a block: a block has images of one shard, or of none.

    Args:
        item: the item.
        last: the item before; None if there is none.
        size: number of items of the block that ``last`` is in.
    """
    return last is None or size >= BLOCK or _shard(item) != _shard(last)


def _shard(item: Item) -> str | None:
    return None if item.shard is None else item.shard.source
