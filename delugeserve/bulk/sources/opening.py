"""Open what was found: the images of shards, and items from their names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from delugeserve.bulk.items import Item, Shard, Skipped, unreadable
from delugeserve.bulk.sources.parquet import read_parquet
from delugeserve.bulk.sources.remote import is_remote, load_url, open_url
from delugeserve.bulk.sources.tars import read_tar
from delugeserve.errors import UsageError, reason_of
from delugeserve_client.errors import ImageError


def open_item(source: str) -> Item:
    """Return the item of an image that :func:`~delugeserve.bulk.sources.find_items` named so."""
    if is_remote(source):
        return Item(source, load=partial(load_url, source))
    return Item(source, source)


def open_shards(items: Iterable[Item], skipped: Skipped) -> Iterator[Item]:
    """Yield items, with the images of each shard in place of the shard.

    Args:
        items: images and shards.
        skipped: counts what is no image in the shards.
    """
    for item in items:
        if item.is_shard and item.shard is not None:
            yield from _open(item.shard, skipped)
        else:
            yield item


def _open(shard: Shard, skipped: Skipped) -> Iterator[Item]:
    found = False
    try:
        with _open_file(shard.path or shard.source) as file:
            parquet = shard.source.lower().endswith(".parquet")
            for item in read_parquet(file, shard) if parquet else read_tar(file, shard, skipped):
                found = True
                yield item
    except UsageError as error:  # a package is not installed
        found = True
        unopened = ImageError(error.problem, error.remedy, source=shard.source)
        yield Item(shard.source, error=unopened, shard=shard)
    except Exception as error:  # those of file systems have no common base class
        found = True
        reason = getattr(error, "strerror", None) or reason_of(error)
        yield unreadable(shard.source, reason, "Check that it can be read.", shard=shard)
    if not found and shard.explicit:
        yield unreadable(shard.source, "it has no images", "Give another file.", shard=shard)
    elif not found:
        skipped.others[f"{Path(shard.source).suffix.lower()} without images"] += 1


def _open_file(source: str) -> BinaryIO:
    if is_remote(source):
        return open_url(source)
    return cast("BinaryIO", Path(source).open("rb"))
