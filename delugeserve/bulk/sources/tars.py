"""Images in tar archives, such as WebDataset's, compressed or not, in the archive's order."""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Iterator
from lzma import LZMAError
from typing import BinaryIO

from delugeserve.bulk.items import Item, Shard, Skipped, too_large, unreadable
from delugeserve.data.formats import is_image_file

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

_AT_ONCE = 1 << 20  # bytes

_DAMAGED = (tarfile.TarError, EOFError, zlib.error, LZMAError, OSError, ValueError)


def read_tar(file: BinaryIO, shard: Shard, skipped: Skipped) -> Iterator[Item]:
    """Yield the images of an archive, which is read once from its start to its end.

    Labels and captions of WebDataset are files that are not images: they are counted.

    Args:
        file: the archive.
        shard: its name and stamp.
        skipped: counts members that are not images.
    """
    # A stream never seeks back, so that a compressed or remote archive is read once.
    try:
        with tarfile.open(fileobj=file, mode="r|*", bufsize=_AT_ONCE) as archive:
            while (member := archive.next()) is not None:
                # tarfile keeps all members, for archives that are read in any order.
                archive.members = []  # type: ignore[attr-defined]
                yield from _read_member(archive, member, shard, skipped)
            if archive.fileobj is not None and archive.fileobj.tell() <= archive.offset:
                raise EOFError  # an archive ends with blocks of zeros
    except _DAMAGED as error:
        reason = getattr(error, "strerror", None) or "it is damaged or truncated"
        yield unreadable(
            shard.source,
            f"{reason}, so that its other images are missing",
            "Download or create it again.",
            shard=shard,
        )


def _read_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, shard: Shard, skipped: Skipped
) -> Iterator[Item]:
    if member.isdir():
        return
    name = os.path.basename(member.name)  # noqa: PTH119 - fast
    if name.startswith("."):
        skipped.hidden += 1
    elif not is_image_file(name):
        skipped.others[os.path.splitext(name)[1].lower()] += 1  # noqa: PTH122
    elif not member.isreg():  # an archive that is read once has no way back to its content
        yield unreadable(
            f"{shard.source}:{member.name}",
            "it is a link in the archive",
            "Create the archive with: tar --dereference --hard-dereference",
            shard=shard,
        )
    else:
        source = f"{shard.source}:{member.name}"
        refused = too_large(source, member.size, shard)
        if refused:
            yield refused
            return
        stream = archive.extractfile(member)
        content = stream.read() if stream else b""
        if len(content) < member.size:
            raise EOFError
        yield Item(source, content, shard=shard)
