"""A recipe as ``train`` and ``ablation`` print it before they start."""

from __future__ import annotations

import dataclasses

from delugeserve.cli.render.console import err_console
from delugeserve.training.recipes import Recipe, find_recipe

# Values that have no effect as long as another one is 0.
_DEPENDS = {"muon_momentum": "muon_rate", "distillation": "teacher"}
_OFF = (0, "none", False)


def print_recipe(recipe: Recipe) -> None:
    """Print a recipe's values, and the defaults of those that were overridden.

    What is switched off is left out, unless it was overridden.
    """
    err_console.print(f"recipe [bold]{recipe.name}[/]")
    default = find_recipe(recipe.name)
    unused = "warmup" if recipe.schedule == "step" else "milestones"
    for field in dataclasses.fields(Recipe)[1:]:
        name, value, usual = field.name, getattr(recipe, field.name), getattr(default, field.name)
        idle = name == unused or not getattr(recipe, _DEPENDS.get(name, name), False)
        if value == usual and (idle or value in _OFF or (name == "bias_rate" and value == 1)):
            continue
        note = "" if value == usual else f"[dim](default {as_text(usual)})[/]"
        err_console.print(f"  {name.replace('_', ' '):<15}  {as_text(value):<9}  {note}".rstrip())


def as_text(value: object) -> str:
    """Return a value of a recipe as text."""
    if isinstance(value, tuple):
        return ", ".join(map(as_text, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
