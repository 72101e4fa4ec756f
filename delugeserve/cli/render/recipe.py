"""A recipe as ``train`` and ``ablation`` print it before they start."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from delugeserve.cli.render.console import err_console
from delugeserve.training.recipes import Recipe, find_recipe, without_effect

if TYPE_CHECKING:
    from delugeserve.training.config import RunConfig

_OFF = (0, "none", False)


def print_recipe(config: RunConfig) -> None:
    """Print the values of a run's recipe, and the defaults of those that were overridden.

    What has no effect in this run is left out, and what is switched off unless it was overridden.
    """
    recipe = config.recipe
    err_console.print(f"recipe [bold]{recipe.name}[/]")
    default, idle = find_recipe(recipe.name), _without_effect(config)
    for field in dataclasses.fields(Recipe)[1:]:
        name, value, usual = field.name, getattr(recipe, field.name), getattr(default, field.name)
        off = value in _OFF or (name == "bias_rate" and value == 1)
        if name in idle or (off and value == usual):
            continue
        note = "" if value == usual else f"[dim](default {as_text(usual)})[/]"
        err_console.print(f"  {name.replace('_', ' '):<15}  {as_text(value):<9}  {note}".rstrip())


def _without_effect(config: RunConfig) -> set[str]:
    idle = set(without_effect(config.recipe, config.network().task))
    if config.teacher is None:
        idle.add("distillation")
    if config.freeze:  # the classifier is all that is trained
        idle.add("head_first")
    return idle


def as_text(value: object) -> str:
    """Return a value of a recipe as text."""
    if isinstance(value, tuple):
        return ", ".join(map(as_text, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
