"""Files whose place holds the old content or the new, never a part of either; temporary ones."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from delugeserve.errors import UsageError


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


@contextmanager
def temporary_folder(prefix: str = "delugeserve-") -> Iterator[Path]:
    """Give a folder for temporary files, which is removed at the end.

    Args:
        prefix: what its name begins with.

    Raises:
        UsageError: there is no place for it, or no room for what is written into it.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=prefix) as folder:
            yield Path(folder)
    except OSError as error:
        where = f" to {tempfile.tempdir}" if tempfile.tempdir else ""
        raise UsageError(
            f"Temporary files cannot be written{where}: {error.strerror or error}.",
            "Free some space there, or set TMPDIR to a folder that has it.",
        ) from error
