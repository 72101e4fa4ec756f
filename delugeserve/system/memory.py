"""Memory that one step frees stays with the process, which asks for it again in the next.

The GNU C library returns large blocks to the system as soon as they are free. On a CPU every batch
frees what it computed, gigabytes in a training step, and the system hands them out again page by
page, each cleared first. Those page faults took a fifth of the processor's time in training, and
half of the time of an evaluation.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# malloc.h: blocks that may lie outside of the heap, from which size on they do, and how many free
# bytes are too many to keep; -1 is never.
_MMAP_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -4, -3, -1
_KEEPING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
# Any setting ends the library's habit of raising its thresholds to the sizes that are asked for, so
# they are left where that habit takes them at the most.
_AFTERWARDS = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}

_lock = threading.Lock()
_depth = 0


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Have the C library keep what is freed meanwhile; in the end it goes back to the system.

    Other libraries than GNU's are left alone, and so is one that the environment tells how to
    behave. May be nested.
    """
    global _depth
    library = _gnu_library()
    with _lock:
        _depth += 1
        if library and _depth == 1:
            _set(library, _KEEPING)
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if library and not _depth:
                _set(library, _AFTERWARDS)
                library.malloc_trim(0)


def _gnu_library() -> ctypes.CDLL | None:
    told = any(name.startswith("MALLOC_") for name in os.environ)
    told = told or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if told or sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def _set(library: ctypes.CDLL, options: dict[int, int]) -> None:
    for option, value in options.items():
        library.mallopt(option, value)
