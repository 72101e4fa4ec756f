"""Writing a file so that its place holds the old content or the new, and never a part of either."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_beside(path: Path, mark: str | None = None) -> Iterator[Path]:
    """Give a path to write to, which takes the place of ``path`` once that has gone well.

    Args:
        path: the file; the other one lies in the same folder and has the same suffix.
        mark: what its name begins with. None takes this process's number, so that two processes
            may write at once; with a fixed one, what a killed process left is written over.
    """
    beside = path.with_name(f".{mark or os.getpid()}-{path.name}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
