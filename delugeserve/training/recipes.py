"""Training recipes as frozen, named values.

``cifar`` is the paper's (arXiv 1611.05552, section 4.1); ``cifar-quick`` is ours, for a CPU or half
an hour of a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from delugeserve.errors import UnknownNameError


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a network is trained, but the data and the seed.

    Attributes:
        name: the registry's name.
        epochs: passes over the training images.
        batch_size: images of one optimiser step.
        learning_rate: the highest learning rate of the schedule.
        schedule: ``step`` divides the rate by ten at each milestone; ``one-cycle`` rises linearly
            from zero during the warm-up, then falls linearly to zero; ``cosine`` rises likewise and
            falls as half a cosine.
        milestones: for ``step``, as fractions of the epochs.
        warmup: for the others, as a fraction of the steps.
        momentum: of SGD with Nesterov's update.
        weight_decay: L2 penalty on every parameter.
        label_smoothing: probability mass spread over all classes.
        ema_decay: decay, a step, of the moving average of the weights that is evaluated and saved;
            0 for none.
        crop_padding: pixels around an image before a random crop.
    """

    name: str
    epochs: int
    batch_size: int
    learning_rate: float
    schedule: Literal["step", "one-cycle", "cosine"]
    milestones: tuple[float, ...] = ()
    warmup: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    crop_padding: int = 4


_RECIPES = (
    Recipe(
        "cifar",
        epochs=300,
        batch_size=64,
        learning_rate=0.1,
        schedule="step",
        milestones=(0.5, 0.75),
    ),
    Recipe(
        "cifar-quick",
        epochs=30,
        batch_size=128,
        learning_rate=0.15,
        schedule="one-cycle",
        warmup=0.15,
        weight_decay=5e-4,
        label_smoothing=0.1,
        ema_decay=0.999,
    ),
)

RECIPES: Mapping[str, Recipe] = MappingProxyType({recipe.name: recipe for recipe in _RECIPES})


def find_recipe(name: str) -> Recipe:
    """Look a recipe up by name.

    Raises:
        UnknownNameError: there is none of that name.
    """
    try:
        return RECIPES[name]
    except KeyError:
        raise UnknownNameError("recipe", name, RECIPES) from None
