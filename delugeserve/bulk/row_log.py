"""Write rows as they come: flushed in time, with checkpoints, and cut off where they are torn."""

from __future__ import annotations

import os
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path

from delugeserve.bulk.journal import Checkpoint, Journal
from delugeserve.bulk.outputs.base import Format
from delugeserve_client import Classification

ROWS_AT_ONCE = 1024
FLUSH_S = 0.25
CHECKPOINT_S = 2.0


class RowLog:
    """The rows of an output, written to its log by one thread and flushed by another.

    Rows reach the file within a quarter of a second, also while the next result is waited for.
    Every two seconds they reach the disk, and a checkpoint follows.

    Args:
        format_: encodes rows.
        path: the log.
        journal: takes the checkpoints.
        start: where to continue; the log is cut off there.

    Raises:
        OSError: the log cannot be written.
    """

    def __init__(self, format_: Format, path: Path, journal: Journal, start: Checkpoint) -> None:
        self._format, self._journal = format_, journal
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        self._file.truncate(start.bytes)
        self._file.seek(start.bytes)
        self._bytes, self._crc = start.bytes, start.crc
        self.rows, self.refused, self.below = start.rows, start.refused, start.below
        self._waiting: list[Classification] = []
        self._written, self._checkpoint = start, start
        self._next_checkpoint = time.monotonic() + CHECKPOINT_S
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        if not start.bytes:
            self._append(format_.header())
        self._thread = threading.Thread(target=self._flush_now_and_then, daemon=True)
        self._thread.start()

    def write(self, row: Classification) -> None:
        """Add a row.

        Raises:
            OSError: rows cannot be written. Those up to the last checkpoint are safe.
        """
        with self._lock:
            self._waiting.append(row)
            if len(self._waiting) >= ROWS_AT_ONCE:
                self._flush()
        if self._error is not None:
            raise self._error

    @property
    def saved(self) -> int:
        """The number of rows that a run that resumes this one keeps."""
        return self._checkpoint.rows

    def close(self) -> None:
        """Write what is left, and a last checkpoint.

        Raises:
            OSError: it cannot be written.
        """
        self._ended.set()
        self._thread.join()
        try:
            if self._error is not None:
                raise self._error
            with self._lock:
                self._flush()
                self._save()
        finally:
            with suppress(OSError):
                self._file.close()

    def _flush_now_and_then(self) -> None:
        while not self._ended.wait(FLUSH_S):
            try:
                with self._lock:
                    self._flush()
                    if time.monotonic() >= self._next_checkpoint:
                        self._save()
            except Exception as error:  # the other thread raises it
                self._error = error
                return

    def _flush(self) -> None:
        if not self._waiting or self._error is not None:
            return
        try:
            self._append(self._format.encode(self._waiting))
        except Exception as error:
            self._error = error
            raise
        for row in self._waiting:
            self.refused += row.error is not None
            self.below += row.error is None and not row.predictions
        self.rows += len(self._waiting)
        self._waiting.clear()

    def _append(self, content: bytes) -> None:
        view = memoryview(content)
        while view:  # a disk that fills up takes a part, and fails at the next
            view = view[self._file.write(view) :]
        self._bytes += len(content)
        self._crc = zlib.crc32(content, self._crc)

    def _save(self) -> None:
        found = Checkpoint(self.rows, self._bytes, self._crc, self.refused, self.below)
        self._next_checkpoint = time.monotonic() + CHECKPOINT_S
        if found == self._checkpoint:
            return
        os.fsync(self._file.fileno())
        self._journal.checkpoint(found)
        self._checkpoint = found
