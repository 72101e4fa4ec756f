"""Options of ``train`` that override a recipe's values."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from delugeserve.cli.options import with_default
from delugeserve.cli.render.recipe import as_text
from delugeserve.data.options import ClassWeights, Flip, Policy, Sampling
from delugeserve.training.recipes import RECIPES

_RECIPE = "Recipe values to override"


def panel_option(
    help_: str, panel: str, *names: str, default: str | None = None, **more: Any
) -> Any:
    """Return an option that the help lists in a panel."""
    if default is not None:
        help_, more["show_default"] = with_default(help_, default), False
    return typer.Option(*names, help=help_, rich_help_panel=panel, **more)


def recipe_option(help_: str, value: str, **more: Any) -> Any:
    """Return an option that overrides a recipe's value; its help shows those of all recipes."""
    recipes: dict[str, list[str]] = {}
    for name, recipe in RECIPES.items():
        recipes.setdefault(as_text(getattr(recipe, value)), []).append(name)
    default = "; ".join(f"{text} ({', '.join(names)})" for text, names in recipes.items())
    if len(recipes) == 1:
        (default,) = recipes
    return panel_option(help_, _RECIPE, default=default, **more)


FlipOption = Annotated[
    Flip | None,
    recipe_option(
        "Horizontal flips: of half of the images at random, of each image in every second epoch, "
        "or none.",
        "flip",
    ),
]
MixupOption = Annotated[
    float | None, recipe_option("Mixup alpha, such as 0.2; 0 for none.", "mixup")
]
CutmixOption = Annotated[
    float | None, recipe_option("CutMix alpha, such as 1; 0 for none.", "cutmix")
]
ClassWeightsOption = Annotated[
    ClassWeights | None,
    recipe_option(
        "Weights of the classes in the loss: none, or inversely proportional to their sizes.",
        "class_weights",
    ),
]
SamplingOption = Annotated[
    Sampling | None,
    recipe_option("Images of an epoch: each one once, or equally many of each class.", "sampling"),
]
AugmentOption = Annotated[
    Policy | None,
    recipe_option(
        "Random operations on colour and geometry: RandAugment, TrivialAugment or none.", "augment"
    ),
]
