"""A recipe as ``train`` and ``ablation`` print it before they start."""

from __future__ import annotations

import dataclasses

from rich.table import Table

from delugeserve.cli.render.console import err_console
from delugeserve.training.recipes import Recipe, find_recipe


def print_recipe(recipe: Recipe) -> None:
    """Print a recipe's values, and the defaults of those that were overridden."""
    err_console.print(f"recipe [bold]{recipe.name}[/]")
    default = find_recipe(recipe.name)
    table = Table.grid(padding=(0, 2))
    for field in dataclasses.fields(Recipe)[1:]:
        value, usual = (as_text(getattr(one, field.name)) for one in (recipe, default))
        note = "" if value == usual else f"[dim](default {usual})[/]"
        table.add_row(f"  {field.name.replace('_', ' ')}", value, note)
    err_console.print(table)


def as_text(value: object) -> str:
    """Return a value of a recipe as text."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
