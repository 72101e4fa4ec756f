"""The two consoles: data goes to standard output, everything said about it to standard error."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console

out = Console()
talk = Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print a value as indented JSON on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))  # noqa: T201


def print_next(command: str) -> None:
    """Suggest the next command to paste."""
    talk.print(f"[dim]next:[/] [bold]{command}[/]", soft_wrap=True)
