"""Training recipes: frozen values with a name.

``cifar`` and ``imagenet`` are the paper's (arXiv 1611.05552, sections 4.1 and 4.2). The others are
ours: ``cifar-fast`` for the least work, ``cifar-quick`` for hours of a CPU, ``photos`` for a few
thousand photographs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

from delugeserve.data.options import ClassWeights, Flip, Policy, Sampling
from delugeserve.errors import UnknownNameError, UsageError
from delugeserve.zoo import Task

Schedule = Literal["step", "one-cycle", "cosine"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a network is trained, except the data and the seed.

    Attributes:
        name: name of the recipe whose values these are or were.
        epochs: number of passes over the training images.
        batch_size: number of images of one optimiser step.
        learning_rate: highest learning rate of the schedule.
        schedule: ``step`` divides the rate by ten at each milestone; ``one-cycle`` rises linearly
            from zero during the warm-up, then falls linearly to zero; ``cosine`` rises linearly,
            then falls as half a cosine.
        milestones: for ``step``: fractions of the epochs, ascending.
        warmup: for ``one-cycle`` and ``cosine``: fraction of the steps.
        momentum: momentum of SGD with Nesterov's update; 0 for plain SGD.
        weight_decay: L2 penalty on every parameter.
        label_smoothing: probability mass spread over all classes.
        ema_decay: decay per step of the moving average of the weights that is evaluated and saved;
            0 for none.
        crop_padding: pixels around an image before a random crop, for images in memory. ImageNet's
            are cropped differently, see :mod:`delugeserve.data.imagenet`.
        cutout: side in pixels of the square that is covered in each image in memory; 0 for none.
        flip: which images are mirrored: each with probability 0.5 (``random``), each in every
            second epoch (``alternating``), or ``none``.
        mixup: alpha of mixup: images and labels are weighted means of two, with a weight drawn from
            Beta(alpha, alpha) for each batch; 0 for none.
        cutmix: alpha of CutMix: a rectangle is another image's, and covers a share of the area
            drawn from Beta(alpha, alpha) for each batch; 0 for none. With both, each batch gets
            one or the other with equal probability.
        class_weights: weights of the classes in the loss: ``none``, or ``balanced``, inversely
            proportional to a class's number of training images.
        sampling: ``natural`` has each image once an epoch; ``balanced`` has equally many images of
            each class, and as many in all.
        augment: random operations on colour and geometry: two for each image (``randaugment``), one
            of random strength (``trivial``), or ``none``.
        head_first: fraction of the steps, from the start, in which only the classifier is trained.
        freeze_norms: whether BatchNorm uses the statistics that the network starts with, instead of
            those of each batch.
        partial_batch: whether an epoch ends with a smaller batch of the images that fill no whole
            one, in memory; they are left out otherwise.
        patience: number of epochs without a lower validation error after which training stops; 0 to
            train all epochs.
        muon_rate: highest learning rate of Muon, which then trains the convolutions, relative to
            the weights; 0 to train everything with SGD.
        muon_momentum: momentum of Muon.
        bias_rate: learning rate of the biases of BatchNorms and cross-layer sums, relative to
            ``learning_rate``.
        whiten: start with a first convolution that whitens the patches of training images.
        small_images: fraction of the epochs, from the start, that train on images of 3/4 the size.
        distillation: weight of the teacher's probabilities in the loss, if there is a teacher.
        crop_area: smallest area of a random crop over that of the image, for images of more than 64
            pixels; see :mod:`delugeserve.data.imagenet`.
    """

    name: str
    epochs: int
    batch_size: int
    learning_rate: float
    schedule: Schedule
    milestones: tuple[float, ...] = ()
    warmup: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    crop_padding: int = 4
    cutout: int = 0
    flip: Flip = "random"
    mixup: float = 0.0
    cutmix: float = 0.0
    class_weights: ClassWeights = "none"
    sampling: Sampling = "natural"
    augment: Policy = "none"
    head_first: float = 0.0
    freeze_norms: bool = False
    partial_batch: bool = False
    patience: int = 0
    muon_rate: float = 0.0
    muon_momentum: float = 0.95
    bias_rate: float = 1.0
    whiten: bool = False
    small_images: float = 0.0
    distillation: float = 0.5
    crop_area: float = 0.08


_RECIPES = (
    Recipe(
        "cifar",
        epochs=300,
        batch_size=64,
        learning_rate=0.1,
        schedule="step",
        # The authors lower the rate "when epoch >= 150" and 225, and count epochs from 1.
        milestones=(149 / 300, 224 / 300),
        partial_batch=True,
    ),
    Recipe(
        "imagenet",
        epochs=100,
        batch_size=256,
        learning_rate=0.1,
        schedule="step",
        milestones=(0.3, 0.6, 0.9),
        crop_padding=0,
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
    # Its parts are those of https://github.com/KellerJordan/cifar10-airbench, but the small images.
    Recipe(
        "cifar-fast",
        epochs=24,
        batch_size=125,
        learning_rate=0.1,
        schedule="one-cycle",
        weight_decay=5e-4,
        label_smoothing=0.1,
        crop_padding=2,
        flip="alternating",
        muon_rate=0.025,
        muon_momentum=0.9,
        whiten=True,
        small_images=0.5,
    ),
    Recipe(
        "photos",
        epochs=45,
        batch_size=64,
        learning_rate=0.1,
        schedule="one-cycle",
        warmup=0.1,
        weight_decay=5e-4,
        label_smoothing=0.1,
        ema_decay=0.995,
        crop_padding=0,
        crop_area=0.3,
        mixup=0.2,
        muon_rate=0.05,
        small_images=0.6,
    ),
    Recipe(
        "finetune",
        epochs=10,
        batch_size=64,
        learning_rate=0.01,
        schedule="one-cycle",
        warmup=0.2,
        weight_decay=5e-4,
        label_smoothing=0.1,
        ema_decay=0.99,
        head_first=0.2,
    ),
)

RECIPES: Mapping[str, Recipe] = MappingProxyType({recipe.name: recipe for recipe in _RECIPES})


def find_recipe(name: str) -> Recipe:
    """Return the recipe of a name.

    Raises:
        UnknownNameError: there is no such recipe.
    """
    try:
        return RECIPES[name]
    except KeyError:
        raise UnknownNameError("recipe", name, RECIPES) from None


def default_recipe(task: Task) -> Recipe:
    """Return a data set's default recipe; that of other photographs depends on their size."""
    if task.name == "imagenet":
        return find_recipe("imagenet")
    return find_recipe("cifar-quick" if task.fits_memory else "photos")


def choose_recipe(task: Task, name: str | None, **values: Any) -> Recipe:
    """Return a recipe with some of its values overridden.

    Args:
        task: the data set to train on.
        name: the recipe's name; None for the data set's default.
        values: values by attribute; None keeps the recipe's.

    Raises:
        UnknownNameError: there is no such recipe or schedule.
        UsageError: a value is out of range, or has no effect.
    """
    recipe = find_recipe(name) if name else default_recipe(task)
    chosen = override(recipe, **values)
    check_effect(chosen, task, [name for name, value in values.items() if value is not None])
    return chosen


def override(recipe: Recipe, **values: Any) -> Recipe:
    """Return a recipe with other values.

    Args:
        recipe: the recipe.
        values: values by attribute; None keeps the recipe's.

    Raises:
        UsageError: a value is out of range.
        UnknownNameError: there is no such schedule or choice.
    """
    changed = dataclasses.replace(recipe, **{k: v for k, v in values.items() if v is not None})
    for name, (is_sound, range_) in _RANGES.items():
        value = getattr(changed, name)
        if not is_sound(value):
            problem = f"--{_as_option(name)} {_as_text(value)} is out of range."
            raise UsageError(problem, f"Use {range_}.")
    for name, choices in _CHOICES.items():
        if getattr(changed, name) not in get_args(choices):
            kind = name.replace("_", " ")
            raise UnknownNameError(kind, getattr(changed, name), get_args(choices))
    return changed


def check_effect(recipe: Recipe, task: Task, chosen: Iterable[str]) -> None:
    """Check that each overridden value has an effect, and leaves something to learn.

    Args:
        recipe: the recipe to train with.
        task: the data set to train on.
        chosen: names of the attributes that were overridden.

    Raises:
        UsageError: a value has no effect, or leaves nothing to learn.
    """
    by_steps = recipe.schedule == "step"
    if by_steps and not recipe.milestones:
        raise UsageError(
            "Without milestones, the schedule step never lowers the learning rate.",
            "Add --milestones, such as --milestones 0.5,0.75.",
        )
    if recipe.class_weights == recipe.sampling == "balanced":
        raise UsageError(
            "--sampling balanced and --class-weights balanced both correct the classes' sizes.",
            "Leave out one of them.",
        )
    idle = without_effect(recipe, task)
    for name in chosen:
        if name in idle and getattr(recipe, name):  # 0 and () ask for nothing
            where, remedy = idle[name]
            raise UsageError(f"--{_as_option(name)} has no effect {where}.", remedy)
    # A square of this side reaches every border, wherever its centre lies.
    whole = 2 * task.image_size - 1
    if recipe.cutout >= whole:
        size = f"{task.image_size} x {task.image_size}"
        raise UsageError(
            f"--cutout {recipe.cutout} covers all of every image ({size} pixels).",
            f"Use less than {whole}.",
        )


def without_effect(recipe: Recipe, task: Task) -> dict[str, tuple[str, str]]:
    """Return the values without effect: for each attribute, under which condition, and a remedy.

    Args:
        recipe: the recipe to train with.
        task: the data set to train on.
    """
    by_steps = recipe.schedule == "step"
    idle = {
        "warmup" if by_steps else "milestones": (
            f"with the schedule {recipe.schedule}",
            f"Leave it out, or use --schedule {'one-cycle' if by_steps else 'step'}.",
        )
    }
    if not recipe.muon_rate:
        idle["muon_momentum"] = ("without Muon", "Leave it out, or use --muon-rate.")
    if task.fits_memory:
        crops = f"on images of {task.title}, which are cropped after padding"
        idle["crop_area"] = (crops, "Leave it out, or use --crop-padding.")
    else:
        otherwise = f"on images of {task.title}, which are augmented differently"
        idle |= dict.fromkeys(("crop_padding", "cutout"), (otherwise, "Leave it out."))
        idle["partial_batch"] = (f"on images of {task.title}, which are streamed", "Leave it out.")
    return idle


def _as_option(name: str) -> str:
    return name.replace("_", "-")


def _as_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _is_part(value: float) -> bool:
    return 0 <= value < 1


def _is_alpha(value: float) -> bool:
    return 0 <= value < float("inf")


def _are_milestones(values: tuple[float, ...]) -> bool:
    return all(a < b for a, b in zip((0.0, *values), (*values, 1.0), strict=True))


_CHOICES: Mapping[str, Any] = {
    "schedule": Schedule,
    "flip": Flip,
    "class_weights": ClassWeights,
    "sampling": Sampling,
    "augment": Policy,
}

_PART = "a number from 0 to less than 1"
_ALPHA = "0 for none, or a number above 0, such as 0.2 or 1"
_RANGES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "epochs": (lambda value: value >= 1, "1 or more"),
    "batch_size": (lambda value: value >= 2, "2 or more"),
    "learning_rate": (lambda value: 0 < value < float("inf"), "a number above 0"),
    "milestones": (_are_milestones, "ascending fractions of the epochs, such as 0.5,0.75"),
    "warmup": (_is_part, _PART),
    "momentum": (_is_part, _PART),
    "weight_decay": (lambda value: 0 <= value < float("inf"), "0 or more"),
    "label_smoothing": (_is_part, _PART),
    "ema_decay": (_is_part, _PART),
    "crop_padding": (lambda value: value >= 0, "0 or more"),
    "cutout": (lambda value: value >= 0, "0 or more"),
    "patience": (lambda value: value >= 0, "0 or more"),
    "mixup": (_is_alpha, _ALPHA),
    "cutmix": (_is_alpha, _ALPHA),
    "head_first": (_is_part, _PART),
    "muon_rate": (lambda value: 0 <= value < 1, _PART),
    "muon_momentum": (_is_part, _PART),
    "bias_rate": (lambda value: 0 < value < float("inf"), "a number above 0"),
    "small_images": (_is_part, _PART),
    "distillation": (lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "crop_area": (lambda value: 0 < value <= 1, "a number above 0, at most 1"),
}
