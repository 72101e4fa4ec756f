"""Locks between processes."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO, Any


def try_lock(file: IO[Any], path: Path) -> bool:
    """Lock an open file for this process; the lock ends with the process, however that ends.

    Args:
        file: the file, open for writing.
        path: its path.

    Returns:
        False if another process holds the lock, or has removed the file.
    """
    try:
        # Not flock: forked processes would hold its lock too, and those that decode images outlive
        # a killed run by seconds.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # the file system has no locks
        return True
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:  # removed by the previous holder after it was opened
        return False
