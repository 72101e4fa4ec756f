"""Memory: freed memory is kept in the process, and running out of it is explained.

The GNU C library returns large blocks to the system as soon as they are freed. On a CPU every batch
frees its activations, gigabytes in a training step, and the system provides them again for the next
batch, page by page, and clears each page. These page faults took a fifth of the processor's time in
training, and half of the time of an evaluation.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from delugeserve.errors import Failure

# From malloc.h: the number of blocks allowed outside the heap, the size from which blocks are put
# there, and the number of free bytes above which the heap is trimmed (-1 for never).
_MMAP_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -4, -3, -1
_KEEPING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
# Setting any of these disables the library's dynamic thresholds, which grow with the blocks that
# are freed. So the thresholds are left at the maximum that the dynamic ones can reach.
_AFTERWARDS = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}

_lock = threading.Lock()
_depth = 0


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Make the C library keep freed memory during the body, and return it to the system at the end.

    Has no effect with a C library other than GNU's, or where the environment configures malloc
    (``MALLOC_...`` or ``GLIBC_TUNABLES``). May be nested.
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
    configured = any(name.startswith("MALLOC_") for name in os.environ)
    configured = configured or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if configured or sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def _set(library: ctypes.CDLL, options: dict[int, int]) -> None:
    for option, value in options.items():
        library.mallopt(option, value)


@contextmanager
def explain_out_of_memory(remedy: str) -> Iterator[None]:
    """Turn an out-of-memory error of a GPU or of the machine into a :class:`Failure`.

    Args:
        remedy: what to do about it, with its full stop.

    Raises:
        Failure: memory ran out in the body.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # PyTorch has an error class for a GPU's memory, but none for the machine's.
        text = str(error)
        named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        if not named and "can't allocate memory" not in text:
            raise
        wanted = re.search(r"tried to allocate [\d.]+ \w+", text, re.IGNORECASE)
        more = f": {wanted[0].lower()}" if wanted else ""
        raise Failure(f"There is not enough memory{more}.", remedy) from error
