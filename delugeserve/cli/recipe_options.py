"""Options of ``train`` that override a recipe's values."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from delugeserve.cli.options import with_default
from delugeserve.cli.render.recipe import as_text
from delugeserve.data.options import ClassWeights, Flip, Policy, Sampling
from delugeserve.training.recipes import RECIPES, Schedule

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


EpochsOption = Annotated[int | None, recipe_option("Passes over the training images.", "epochs")]
BatchSizeOption = Annotated[
    int | None,
    recipe_option("Global batch size: images per optimiser step.", "batch_size"),
]
LearningRateOption = Annotated[float | None, recipe_option("Peak learning rate.", "learning_rate")]
ScheduleOption = Annotated[Schedule | None, recipe_option("Learning rate schedule.", "schedule")]
MilestonesOption = Annotated[
    str | None,
    recipe_option(
        "For 'step': fractions of the epochs after which the learning rate is divided by ten.",
        "milestones",
        metavar="LIST",
    ),
]
WarmupOption = Annotated[
    float | None,
    recipe_option("For 'one-cycle' and 'cosine': warm-up, as a fraction of all steps.", "warmup"),
]
MomentumOption = Annotated[
    float | None, recipe_option("Nesterov momentum; 0 for none.", "momentum")
]
WeightDecayOption = Annotated[
    float | None,
    recipe_option("Weight decay of every parameter; 0 for none.", "weight_decay"),
]
LabelSmoothingOption = Annotated[
    float | None,
    recipe_option("Label smoothing factor; 0 for none.", "label_smoothing"),
]
EmaDecayOption = Annotated[
    float | None,
    recipe_option(
        "Decay per step of the weights' moving average (EMA); 0 for no average.", "ema_decay"
    ),
]
CropPaddingOption = Annotated[
    int | None,
    recipe_option("Padding in pixels for random crops (CIFAR only).", "crop_padding"),
]
CropAreaOption = Annotated[
    float | None,
    recipe_option(
        "Smallest area of a random crop, relative to the image; for images of more than 64 pixels.",
        "crop_area",
    ),
]
CutoutOption = Annotated[
    int | None,
    recipe_option("Cutout size in pixels; 0 for none (CIFAR only).", "cutout"),
]
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
PartialBatchOption = Annotated[
    bool | None,
    recipe_option(
        "End an epoch with a smaller batch of the images that are left, or leave them out.",
        "partial_batch",
    ),
]
AugmentOption = Annotated[
    Policy | None,
    recipe_option(
        "Random operations on colour and geometry: RandAugment, TrivialAugment or none.", "augment"
    ),
]
HeadFirstOption = Annotated[
    float | None,
    recipe_option(
        "Fraction of the steps, from the start, in which only the classifier is trained.",
        "head_first",
    ),
]
PatienceOption = Annotated[
    int | None,
    recipe_option(
        "Early stopping: epochs without a lower validation error before training stops; 0 for all "
        "epochs.",
        "patience",
        metavar="N",
    ),
]
MuonRateOption = Annotated[
    float | None,
    recipe_option(
        "Peak learning rate of Muon, which then trains the convolutions; 0 for SGD.", "muon_rate"
    ),
]
MuonMomentumOption = Annotated[float | None, recipe_option("Momentum of Muon.", "muon_momentum")]
BiasRateOption = Annotated[
    float | None,
    recipe_option(
        "Learning rate of the biases of BatchNorm and cross-layer sums, relative to the others.",
        "bias_rate",
    ),
]
WhitenOption = Annotated[
    bool | None,
    recipe_option("Start with a first convolution that whitens image patches.", "whiten"),
]
SmallImagesOption = Annotated[
    float | None,
    recipe_option(
        "Fraction of the epochs, from the start, that train on images of 3/4 the size.",
        "small_images",
    ),
]
DistillationOption = Annotated[
    float | None,
    recipe_option("Weight of the teacher's probabilities in the loss.", "distillation"),
]
FreezeNormsOption = Annotated[
    bool | None,
    recipe_option(
        "Keep the BatchNorm statistics of the initial checkpoint, or take those of each batch.",
        "freeze_norms",
    ),
]
