"""The user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from delugeserve.system.files import atomic_write


def cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/delugeserve``, or ``~/.cache/delugeserve``; it need not exist."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "delugeserve"


def write_cache(path: Path, content: bytes) -> None:
    """Write a file of the cache atomically; if it cannot be written, do nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    except OSError:
        pass
