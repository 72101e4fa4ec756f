"""A recipe as ``train`` and ``ablation`` print it before they start."""

from __future__ import annotations

import dataclasses

from delugeserve.cli.render.console import err_console
from delugeserve.training.recipes import Recipe, find_recipe


def print_recipe(recipe: Recipe) -> None:
    """Print a recipe's values, and the defaults of those that were overridden."""
    err_console.print(f"recipe [bold]{recipe.name}[/]")
    default = find_recipe(recipe.name)
    unused = "warmup" if recipe.schedule == "step" else "milestones"
    for field in dataclasses.fields(Recipe)[1:]:
        if field.name == unused:
            continue
        value, usual = (as_text(getattr(one, field.name)) for one in (recipe, default))
        note = "" if value == usual else f"[dim](default {usual})[/]"
        err_console.print(f"  {field.name.replace('_', ' '):<15}  {value:<9}  {note}".rstrip())


def as_text(value: object) -> str:
    """Return a value of a recipe as text."""
    if isinstance(value, tuple):
        return ", ".join(map(as_text, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
