"""A list of paths on standard input, as ``find`` and ``ls`` write it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

_CHUNK = 1 << 16


def read_names(stream: BinaryIO) -> Iterator[str]:
    """Yield the names of a list, one for each line, or ended by NUL as by ``find -print0``.

    What ends the names is found from the first ones: a list with a NUL before its first chunk ends
    is taken for one that NUL ends. Empty names are skipped. Names need not be UTF-8.

    Args:
        stream: the list. It is read as it comes.
    """
    read = getattr(stream, "read1", stream.read)
    rest = b""
    while b"\n" not in rest and b"\0" not in rest:
        chunk = read(_CHUNK)
        if not chunk:
            break
        rest += chunk
    end = b"\0" if b"\0" in rest else b"\n"
    while True:
        *names, rest = rest.split(end)
        for name in names:
            yield from _decoded(name, end)
        chunk = read(_CHUNK)
        if not chunk:
            break
        rest += chunk
    yield from _decoded(rest, end)


def _decoded(name: bytes, end: bytes) -> Iterator[str]:
    if end == b"\n":
        name = name.removesuffix(b"\r")
    if name:
        yield os.fsdecode(name)
