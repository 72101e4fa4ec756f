"""A recipe, value by value, as 'train' and 'ablation' print it before the work."""

from __future__ import annotations

import dataclasses

from rich.table import Table

from delugeserve.cli.render.console import err_console
from delugeserve.training.recipes import Recipe, find_recipe


def print_recipe(recipe: Recipe) -> None:
    """Print a recipe, and which of its values are not those of its name."""
    err_console.print(f"recipe [bold]{recipe.name}[/]")
    named = find_recipe(recipe.name)
    table = Table.grid(padding=(0, 2))
    for field in dataclasses.fields(Recipe)[1:]:
        value, usual = (_as_text(getattr(one, field.name)) for one in (recipe, named))
        note = "" if value == usual else f"[dim](not {usual})[/]"
        table.add_row(f"  {field.name.replace('_', ' ')}", value, note)
    err_console.print(table)


def _as_text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "-"
    return str(value)
