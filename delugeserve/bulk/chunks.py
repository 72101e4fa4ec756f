"""A list of images, written to files: what each worker of a cluster takes at a time.

Chunks are files of names in the folder beside the output, which all machines must reach. A shard is
a chunk of its own, and is opened by the worker that labels it. Workers run in other folders than
the process that lists the images, so that relative names have absolute paths beside them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path

from delugeserve.bulk.items import Item, Shard
from delugeserve.bulk.labelling import BLOCK
from delugeserve.bulk.sources.opening import open_item
from delugeserve.bulk.sources.remote import has_protocol
from delugeserve.system.files import sync_path
from delugeserve_client.errors import ImageError

SMALL, LARGE = 4 * BLOCK, 40 * BLOCK
"""Images of a chunk, whole blocks: few at first, so that a small job is shared by all workers, and
many later, so that a huge one has not too many chunks."""

_LARGE_FROM = 1_000_000
_PER_FOLDER = 1_000


def write_chunks(items: Iterable[Item], folder: Path, *, small: int = SMALL) -> int:
    """Write the list of images.

    Args:
        items: images, and shards that are not opened.
        folder: takes the files.
        small: images of the first chunks.

    Returns:
        The number of chunks.

    Raises:
        OSError: the list cannot be written.
    """
    chunk: list[Item] = []
    chunks = images = 0

    def write() -> None:
        nonlocal chunks
        if chunk:
            path = _path(folder, chunks)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(_encode(item) for item in chunk), encoding="ascii")
            sync_path(path)
            chunks += 1
            chunk.clear()

    for item in items:
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
    return chunks


def first_change(items: Iterable[Item], folder: Path, chunks: int) -> tuple[str, str] | None:
    """Compare a list of images with the one that was written.

    Args:
        items: images, and shards that are not opened.
        folder: has the files.
        chunks: their number.

    Returns:
        The first name that differs, then and now; both are the same for a shard that was changed,
        and one is empty where there is no such image. None if nothing differs.
    """
    written = (_decode(line) for chunk in range(chunks) for line in _lines(folder, chunk))
    for before, now in zip_longest(written, items):
        if before is None or now is None or _identity(before) != _identity(now):
            return before.source if before else "", now.source if now else ""
    return None


def read_chunk(folder: Path, chunk: int) -> Iterator[Item]:
    """Return the images of a chunk; a shard is not opened.

    Args:
        folder: has the files.
        chunk: number of the chunk.
    """
    return map(_decode, _lines(folder, chunk))


def _identity(item: Item) -> tuple[str, str | None]:
    return item.source, None if item.shard is None else item.shard.stamp


def _lines(folder: Path, chunk: int) -> list[str]:
    return _path(folder, chunk).read_text(encoding="ascii").splitlines()


def _path(folder: Path, chunk: int) -> Path:
    return folder / f"{chunk // _PER_FOLDER:06d}" / f"{chunk % _PER_FOLDER:03d}"


def _encode(item: Item) -> str:
    values: dict[str, object] = {"source": item.source}
    if item.error is not None:
        values |= {"problem": item.error.problem, "remedy": item.error.remedy}
    elif item.shard is not None:
        values |= {"stamp": item.shard.stamp, "explicit": item.shard.explicit}
    if item.error is None and not has_protocol(item.source):
        path = os.path.abspath(item.source)  # noqa: PTH100 - no links
        values |= {"path": path} if path != item.source else {}
    return json.dumps(values) + "\n"


def _decode(line: str) -> Item:
    values = json.loads(line)
    source, path = values["source"], values.get("path", "")
    if "stamp" in values:
        return Item(source, shard=Shard(source, values["stamp"], values["explicit"], path))
    if "problem" in values:
        return Item(source, error=ImageError(values["problem"], values["remedy"], source=source))
    return Item(source, path) if path else open_item(source)
