"""The journal of an unfinished output: how far it is, and what it is made from.

Beside ``labels.jsonl`` lies the folder ``labels.jsonl.incomplete`` until the output is complete:

- ``lock``: locked while a process writes the output;
- ``journal.jsonl``: a line of what the run was asked for, lines of the shards that it opened, and a
  line for each checkpoint. A checkpoint is written after the rows that it counts are on the disk,
  so that the last whole line is true wherever the run ends;
- ``rows``: the rows, for formats that cannot be appended to;
- ``chunks``, ``parts``, ``checkpoint``: of a cluster, the list of images, the rows of each part
  of it, and which parts are done.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from delugeserve.bulk.labelling import ModelIdentity
from delugeserve.errors import (
    BusyOutputError,
    OtherInputError,
    ResumeError,
    UsageError,
)
from delugeserve.system.files import atomic_write, sync_path
from delugeserve.system.locks import try_lock

SUFFIX = ".incomplete"
LOCK = "lock"
_FORMAT = 1  # of the journal
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Request:
    """What decides the rows of an output.

    Attributes:
        arguments: the images asked for.
        format: name of the format.
        top_k: the most classes of a row.
        threshold: the least probability of a class in a row; None for no limit.
        max_pixels: the most pixels of an image; None for the default.
        decode: who decodes: ``client`` or ``server``.
        engine: ``local`` or ``ray``.
        model: what labels.
    """

    arguments: tuple[str, ...]
    format: str
    top_k: int
    threshold: float | None
    max_pixels: int | None
    decode: str
    engine: str
    model: ModelIdentity

    def check(self, output: Path, before: Request) -> None:
        """Check that an output that was begun for another request can be continued for this one.

        Raises:
            ResumeError: an option has changed.
            OtherInputError: the arguments or the model have changed.
        """
        options = ("format", "top_k", "threshold", "max_pixels", "decode", "engine")
        changed: dict[str, tuple[Any, Any]] = {
            name: (getattr(before, name), getattr(self, name))
            for name in options
            if getattr(before, name) != getattr(self, name)
        }
        if changed:
            raise ResumeError(output, changed)
        if before.arguments != self.arguments:
            was, now = " ".join(before.arguments), " ".join(self.arguments)
            raise OtherInputError(
                output, f"it was for {was}, not for {now}", kind="source", before=was, now=now
            )
        if not before.model.matches(self.model):
            raise OtherInputError(
                output,
                f"it was begun with {before.model}, and now {self.model} is served",
                kind="model",
                before=str(before.model),
                now=str(self.model),
            )


@dataclass(frozen=True)
class Checkpoint:
    """How far an output is.

    Attributes:
        rows: its rows.
        bytes: the length of its log.
        crc: CRC-32 of the log.
        refused: the rows of images that could not be read.
        below: the rows whose classes are all below the threshold.
    """

    rows: int = 0
    bytes: int = 0
    crc: int = 0
    refused: int = 0
    below: int = 0


@dataclass(frozen=True)
class Listed:
    """The list of images that a cluster works through.

    Attributes:
        chunks: its parts.
    """

    chunks: int


@dataclass
class State:
    """What a journal says.

    Attributes:
        request: what the output is for.
        checkpoint: how far it is.
        shards: the stamps of the shards that were opened, by name.
        listed: the list of a cluster, if it is complete.
        length: bytes of the journal's whole lines.
    """

    request: Request
    checkpoint: Checkpoint = Checkpoint()
    listed: Listed | None = None
    shards: dict[str, str] = field(default_factory=dict)
    length: int = 0


def folder_of(output: Path) -> Path:
    """Return the folder that lies beside an output until it is complete."""
    return output.with_name(output.name + SUFFIX)


@contextmanager
def output_lock(output: Path) -> Iterator[Path]:
    """Lock an output against other processes that would write it.

    Yields:
        The folder beside the output. It is removed again if it holds nothing else.

    Raises:
        BusyOutputError: another process is writing the output.
        UsageError: the folder cannot be written.
    """
    folder = folder_of(output)
    lock = folder / LOCK
    try:
        folder.mkdir(exist_ok=True)
        file = lock.open("a")
    except FileNotFoundError as error:  # another process has just finished
        raise BusyOutputError(output) from error
    except OSError as error:
        raise UsageError(
            f"{output} cannot be written: {error.strerror or error}.",
            "Choose a file in another folder, or free some space.",
        ) from error
    with file:
        if not try_lock(file, lock):
            raise BusyOutputError(output)
        try:
            yield folder
        finally:
            lock.unlink(missing_ok=True)
            with suppress(OSError):  # it is not empty
                folder.rmdir()


class Journal:
    """A journal that is being written; one process has it at a time.

    Args:
        file: the journal, open for appending.
    """

    NAME = "journal.jsonl"

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lock = threading.Lock()

    @classmethod
    def create(cls, folder: Path, request: Request) -> Journal:
        """Begin a journal.

        Raises:
            OSError: it cannot be written.
        """
        path = folder / cls.NAME
        first = {"journal": _FORMAT, "request": dataclasses.asdict(request)}
        with atomic_write(path, "begin", sync=True) as beside:  # never without its first line
            beside.write_bytes(_line(first))
        sync_path(folder.parent)  # without the folder, the output would look complete
        return cls._open(path)

    @classmethod
    def append_to(cls, folder: Path, length: int) -> Journal:
        """Open a journal to continue.

        Args:
            folder: has the journal.
            length: bytes of its whole lines; what follows is cut off.

        Raises:
            OSError: it cannot be written.
        """
        os.truncate(folder / cls.NAME, length)
        return cls._open(folder / cls.NAME)

    @classmethod
    def _open(cls, path: Path) -> Journal:
        file = path.open("r+b", buffering=0)
        file.seek(0, os.SEEK_END)
        return cls(file)

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Record how far the output is; the rows must have reached the disk.

        Raises:
            OSError: it cannot be written.
        """
        self._write(dataclasses.asdict(checkpoint))

    def listed(self, listed: Listed) -> None:
        """Record that the list for a cluster is complete.

        Raises:
            OSError: it cannot be written.
        """
        self._write({"listed": dataclasses.asdict(listed)})

    def shard(self, source: str, stamp: str) -> None:
        """Record that a shard was opened.

        Raises:
            OSError: it cannot be written.
        """
        self._write({"shard": source, "stamp": stamp})

    def close(self) -> None:
        """Close the journal."""
        self._file.close()

    def _write(self, record: Mapping[str, Any]) -> None:
        line = _line(record)
        with self._lock:
            start = self._file.tell()
            try:
                written = self._file.write(line)
                if written != len(line):  # the disk is full
                    self._file.write(line[written:])
                os.fsync(self._file.fileno())
            except OSError:
                with suppress(OSError):
                    self._file.truncate(start)
                    self._file.seek(start)
                raise


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


def read_journal(output: Path, folder: Path, log: Path) -> State | None:
    """Read what a journal says, up to the last checkpoint whose rows are in the log.

    Args:
        output: the output.
        folder: the folder beside it.
        log: where the rows are.

    Returns:
        None if no run has begun there.

    Raises:
        OtherInputError: the journal cannot be read, or is of another release.
    """
    try:
        first, *lines = (folder / Journal.NAME).read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return None
    except ValueError:
        first, lines = b"", []
    state = State(_read_request(output, first), length=len(first))
    rows = log.stat().st_size if log.exists() else 0
    for line in lines:
        try:
            _read_line(line, state, rows)
        except (ValueError, KeyError, TypeError):  # torn, or damaged
            break
        state.length += len(line)
    return state


def _read_line(line: bytes, state: State, rows: int) -> None:
    if not line.endswith(b"\n"):
        raise ValueError("the line is torn")
    record = json.loads(line)
    if "shard" in record:
        state.shards[record["shard"]] = record["stamp"]
    elif "listed" in record:
        state.listed = Listed(**record["listed"])
    elif record["bytes"] <= rows:
        state.checkpoint = Checkpoint(**record)


def _read_request(output: Path, line: bytes) -> Request:
    """Return what the first line of a journal says."""
    try:
        record = json.loads(line)
        found, values = record["journal"], record.get("request", {})
        if found == _FORMAT:
            model = ModelIdentity(**values.pop("model"))
            arguments = tuple(values.pop("arguments"))
            return Request(arguments=arguments, model=model, **values)
        change, before = "it was begun by another release", str(found)
    except (ValueError, KeyError, TypeError):
        change, before = f"its journal {folder_of(output) / Journal.NAME} is damaged", ""
    raise OtherInputError(output, change, kind="journal", before=before, now=str(_FORMAT))


def check_log(output: Path, log: Path, checkpoint: Checkpoint) -> None:
    """Check that a log still begins with the rows that a checkpoint counted.

    Raises:
        OtherInputError: it was changed.
    """
    crc, rest = 0, checkpoint.bytes
    if rest:
        with log.open("rb") as file:
            while rest and (chunk := file.read(min(rest, _CHUNK))):
                crc = zlib.crc32(chunk, crc)
                rest -= len(chunk)
    if rest or crc != checkpoint.crc:
        raise OtherInputError(
            output,
            "its rows were changed since they were written",
            kind="output",
            before=f"{checkpoint.crc:08x}",
            now=f"{crc:08x}",
        )


def remove(folder: Path) -> None:
    """Remove the journal, and then what lies beside it; the lock stays.

    With the journal gone, the output is complete or was never begun.
    """
    (folder / Journal.NAME).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
