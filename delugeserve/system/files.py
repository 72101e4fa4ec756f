"""Atomic file writes, digests and temporary folders."""

from __future__ import annotations

import hashlib
import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from delugeserve.errors import UsageError


@contextmanager
def atomic_write(path: Path, mark: str | None = None, *, sync: bool = False) -> Iterator[Path]:
    """Write a file atomically: yield a temporary path, renamed to ``path`` if the body succeeds.

    Args:
        path: the file to write. The temporary file is in the same folder and has the same suffix.
        mark: prefix of the temporary file's name. None takes the process number, so that two
            processes can write at once; a fixed one overwrites what a killed process left.
        sync: return when the file is on the disk, for what is removed afterwards.
    """
    beside = path.with_name(f".{mark or os.getpid()}-{path.name}")
    try:
        yield beside
        if sync:
            sync_path(beside)
        beside.replace(path)
        if sync:
            sync_path(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def sync_path(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk.

    Raises:
        OSError: they cannot be written.
    """
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def write_output(
    path: Path, remedy: str = "Choose a file in another folder, or free some space."
) -> Iterator[Path]:
    """Write a file that was asked for, with :func:`atomic_write`. Its folder is made if need be.

    Args:
        path: the file to write.
        remedy: of the error.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as beside:
            yield beside
    except OSError as error:
        problem = f"{path} cannot be written: {error.strerror or error}."
        raise UsageError(problem, remedy) from error


@contextmanager
def temporary_folder(prefix: str = "delugeserve-") -> Iterator[Path]:
    """Yield a folder for temporary files, removed at the end.

    Args:
        prefix: prefix of its name.

    Raises:
        UsageError: it cannot be made, or the disk is full.
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


def is_owner(path: Path) -> bool:
    """Return whether this user owns a file or folder, and so may change its permissions."""
    try:
        return path.stat().st_uid == os.getuid()
    except (OSError, AttributeError):  # Windows has no users of that kind
        return True


def make_readable(path: Path) -> str:
    """Return the remedy for a file or folder that this user may not read."""
    quoted = shlex.quote(str(path))
    if is_owner(path):
        return f"Make it readable: chmod -R u+rX {quoted}"
    return f"Have its owner run: chmod -R a+rX {quoted}"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
