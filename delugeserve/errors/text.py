"""Parts of messages: the nearest name, the reason of an error, short lists."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


def nearest_name(name: str, known: Iterable[str], cutoff: float = 0.55) -> str | None:
    """Return the known name most like ``name``, or None if none is close."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def nearest_path(path: Path, more: Iterable[str] = ()) -> str | None:
    """Return the file or folder beside ``path`` with a name most like its own.

    Args:
        path: a path that does not exist.
        more: other names that may have been meant.
    """
    try:
        beside = [str(path.parent / child.name) for child in path.parent.iterdir()]
    except OSError:
        beside = []
    return nearest_name(str(path), [*beside, *more], cutoff=0.75)


def reason_of(error: Exception) -> str:
    """Return the last line of a third-party error's message, or its class name."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def list_some(names: tuple[str, ...], most: int = 5) -> str:
    """Return the first names, quoted, and how many more there are."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
