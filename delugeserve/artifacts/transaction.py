"""Changing several files of a model repository at once, under its lock.

A transaction is one file, ``.transaction.json``, with everything that is to change: folders to move
and texts to write. Renaming it into place commits it. It is then applied step by step, and each
step can be repeated, so whoever takes the lock after a kill finishes it. Before the rename nothing
has changed; after it, everything will.

The record is a file, not a folder, because a server takes every folder of a repository for a model.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from delugeserve.artifacts.repository import list_names
from delugeserve.artifacts.typed_json import from_json, to_json
from delugeserve.errors import RepositoryError
from delugeserve.system.imports import require

_log = logging.getLogger(__name__)

LOCK = ".lock"
RECORD = ".transaction.json"
_SAID_AFTER, _LONGEST_WAIT = 3, 60  # seconds; a change takes milliseconds
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class Move:
    """A folder to move.

    Attributes:
        source: its path, relative to the repository.
        target: where it goes, relative to the repository; nothing is there yet. In a hidden folder
            it is to be deleted.
    """

    source: str
    target: str


@dataclass(frozen=True)
class Transaction:
    """Changes of a repository that happen together or not at all.

    Attributes:
        moves: folders to move, in order. They come before the files.
        files: new texts by path relative to the repository, in order; None deletes the file. A file
            that exists keeps its permissions.
    """

    moves: tuple[Move, ...] = ()
    files: Mapping[str, str | None] = field(default_factory=dict)


@contextmanager
def lock_repository(repository: Path) -> Iterator[None]:
    """Hold a repository's lock. A transaction that was killed is finished first.

    Raises:
        OSError: the repository cannot be written.
        RepositoryError: another process has held the lock for a minute, or the record of an
            interrupted transaction is damaged.
    """
    filelock = require("filelock", "export")
    lock = filelock.FileLock(repository / LOCK)
    try:
        lock.acquire(timeout=_SAID_AFTER)
    except filelock.Timeout:
        _log.info("Waiting for another command that is changing %s.", repository)
        try:
            lock.acquire(timeout=_LONGEST_WAIT - _SAID_AFTER)
        except filelock.Timeout:
            raise RepositoryError(
                f"Another command has been changing the model repository {repository} for "
                f"{_LONGEST_WAIT} s.",
                "Wait until it has ended, or end it.",
                repository,
            ) from None
    try:
        _finish(repository)
        yield
    finally:
        lock.release()


@contextmanager
def lock_for_reading(repository: Path) -> Iterator[None]:
    """Keep others from changing a repository while it is read; it need not be writable.

    Raises:
        RepositoryError: a transaction was killed, and this user cannot finish it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock_repository(repository))
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            stack.enter_context(_lock_shared(repository))
            if (repository / RECORD).exists():
                raise RepositoryError(
                    f"A change of the model repository {repository} was interrupted, and this user "
                    "cannot write there to finish it.",
                    "Run 'delugeserve versions' on it as a user who can.",
                    repository,
                ) from None
        yield


@contextmanager
def lock_for_writing(repository: Path) -> Iterator[None]:
    """Hold the lock of a repository that exists, to change it.

    Raises:
        RepositoryError: there is no repository, no model in it, or it cannot be written.
    """
    list_names(repository)
    try:
        with lock_repository(repository):
            yield
    except OSError as error:
        raise RepositoryError(
            f"The model repository {repository} cannot be written: {error.strerror or error}.",
            "Run the command as a user who may write there, and free some space if the disk is "
            "full.",
            repository,
        ) from error


def commit(repository: Path, transaction: Transaction) -> None:
    """Make all changes of a transaction; the caller holds the repository's lock.

    Args:
        repository: the model repository.
        transaction: what to change.

    Raises:
        OSError: the repository cannot be written, or its disk is full; nothing was changed.
    """
    written = []
    try:
        for name, text in transaction.files.items():
            # Written before the commit, so that a disk that is full leaves the old state.
            path = repository / name
            if text is not None and path.parent.is_dir():
                written.append(_beside(path))
                _write(path, text)
        record = repository / RECORD
        written.append(_beside(record))
        _write(record, json.dumps(to_json(transaction)))
        _beside(record).replace(record)
    except Exception:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    _flush_folder(repository)
    _apply(repository, transaction)


def relative(repository: Path, path: Path) -> str:
    """Return a path as a transaction has it, relative to the repository."""
    # Steps up from a repository that is a link start at the folder that it points to.
    return os.path.relpath(path.parent.resolve() / path.name, repository.resolve())


def _finish(repository: Path) -> None:
    """Apply the transaction of a process that was killed after it had committed."""
    path = repository / RECORD
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    try:
        transaction = from_json(Transaction, json.loads(text))
    except ValueError as error:
        raise RepositoryError(
            f"{path} is damaged ({error}).",
            "Delete it, then check the repository with: delugeserve doctor",
            path,
        ) from error
    if not all(_possible(repository, move) for move in transaction.moves):
        # Moves come first, so no text has been written.
        _log.warning("An interrupted change of %s is dropped: its files are gone.", repository)
        path.unlink()
        return
    _apply(repository, transaction)
    _log.info("Finished an interrupted change of %s.", repository)


def _possible(repository: Path, move: Move) -> bool:
    """Whether a move can be made or has been; what was moved to a hidden folder may be gone."""
    hidden = move.target.startswith(".")
    return hidden or (repository / move.source).exists() or (repository / move.target).exists()


def _apply(repository: Path, transaction: Transaction) -> None:
    for move in transaction.moves:
        source, target = repository / move.source, repository / move.target
        if source.exists() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
            _flush_folder(target.parent)
            _flush_folder(source.parent)
    for name, text in transaction.files.items():
        path = repository / name
        if text is None:
            path.unlink(missing_ok=True)
        else:
            if not _has_text(_beside(path), text):
                _write(path, text)
            _beside(path).replace(path)
        _flush_folder(path.parent)
    (repository / RECORD).unlink()


def _beside(path: Path) -> Path:
    return path.with_name(f".new-{path.name}")


def _write(path: Path, text: str) -> None:
    """Write a new text beside a file, with the file's permissions."""
    beside = _beside(path)
    with beside.open("wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        shutil.copymode(path, beside)


def _has_text(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False


def _flush_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _lock_shared(repository: Path) -> Iterator[None]:
    """Hold the lock as a reader, which a process that changes the repository waits for."""
    import fcntl

    try:
        descriptor = os.open(repository / LOCK, os.O_RDONLY)
    except OSError:  # nobody has ever changed it
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)
