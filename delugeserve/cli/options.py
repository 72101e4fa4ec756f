"""Options of more than one command, checked before any work is done."""

from __future__ import annotations

import os
from pathlib import Path

from delugeserve.errors import UsageError


def parse_counts(option: str, text: str) -> list[int]:
    """Read a list such as ``1,4,16``; what stands in it twice counts once.

    Raises:
        UsageError: something in it is no whole number from 1 up.
    """
    counts = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if min(counts) < 1:
        raise UsageError(
            f"{option} '{text}' is no list of whole numbers from 1 up.", f"Say {option} 1,8,32."
        )
    return list(dict.fromkeys(counts))


def check_output_file(path: Path) -> None:
    """Refuse a file that could not be written after the work.

    Raises:
        UsageError: it is a folder, or its own folder is not there or cannot be written to.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder.", "Give the name of a file.")
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent}.", "Make it, or choose another file.")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path.parent} cannot be written to.", "Choose another file.")
