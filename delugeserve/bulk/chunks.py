"""A list of images, written to files: what each worker of a cluster takes at a time.

Chunks are files of names in the folder beside the output, which all machines must reach. A shard is
a chunk of its own, and is opened by the worker that labels it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from delugeserve.bulk.items import Item, Shard
from delugeserve.bulk.labelling import BLOCK
from delugeserve.bulk.row_log import Names
from delugeserve.bulk.sources.opening import open_item
from delugeserve_client.errors import ImageError

SMALL, LARGE = 4 * BLOCK, 40 * BLOCK
"""Images of a chunk, whole blocks: few at first, so that a small job is shared by all workers, and
many later, so that a huge one has not too many chunks."""

_LARGE_FROM = 1_000_000
_PER_FOLDER = 1_000


def write_chunks(items: Iterable[Item], folder: Path, *, small: int = SMALL) -> tuple[int, Names]:
    """Write the list of images.

    Args:
        items: images, and shards that are not opened.
        folder: takes the files.
        small: images of the first chunks.

    Returns:
        The number of chunks, and the digest of the names.

    Raises:
        OSError: the list cannot be written.
    """
    names = Names()
    chunk: list[Item] = []
    chunks = images = 0

    def write() -> None:
        nonlocal chunks
        if chunk:
            path = _path(folder, chunks)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(_encode(item) for item in chunk), encoding="ascii")
            chunks += 1
            chunk.clear()

    for item in items:
        names.add(_identity(item))
        if item.is_shard:
            write()
            chunk.append(item)
            write()
            continue
        chunk.append(item)
        images += 1
        if len(chunk) >= (small if images <= _LARGE_FROM else LARGE):
            write()
    write()
    return chunks, names


def digest_names(items: Iterable[Item]) -> Names:
    """Return the digest of the names of images, as :func:`write_chunks` does."""
    names = Names()
    for item in items:
        names.add(_identity(item))
    return names


def read_chunk(folder: Path, chunk: int) -> Iterator[Item]:
    """Yield the images of a chunk; a shard is not opened.

    Args:
        folder: has the files.
        chunk: number of the chunk.
    """
    for line in _path(folder, chunk).read_text(encoding="ascii").splitlines():
        values = json.loads(line)
        source = values["source"]
        if "stamp" in values:
            yield Item(source, shard=Shard(source, values["stamp"], values["explicit"]))
        elif "problem" in values:
            error = ImageError(values["problem"], values["remedy"], source=source)
            yield Item(source, error=error)
        else:
            yield open_item(source)


def sources_of(folder: Path, chunks: int) -> Iterator[str]:
    """Yield the names in the list."""
    for chunk in range(chunks):
        for line in _path(folder, chunk).read_text(encoding="ascii").splitlines():
            yield json.loads(line)["source"]


def _identity(item: Item) -> str:
    return item.source if item.shard is None else f"{item.source} {item.shard.stamp}"


def _path(folder: Path, chunk: int) -> Path:
    return folder / f"{chunk // _PER_FOLDER:06d}" / f"{chunk % _PER_FOLDER:03d}"


def _encode(item: Item) -> str:
    values: dict[str, object] = {"source": item.source}
    if item.error is not None:
        values |= {"problem": item.error.problem, "remedy": item.error.remedy}
    elif item.shard is not None:
        values |= {"stamp": item.shard.stamp, "explicit": item.shard.explicit}
    return json.dumps(values) + "\n"
