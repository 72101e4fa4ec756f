"""Recipes: the published values, what may override them, and the rates they give."""

import dataclasses
import itertools
import math

import pytest

from delugeserve.errors import UnknownNameError, UsageError
from delugeserve.training.module import learning_rate
from delugeserve.training.recipes import (
    RECIPES,
    Recipe,
    choose_recipe,
    default_recipe,
    find_recipe,
    override,
)
from delugeserve.zoo import CIFAR10, CIFAR100, CLOTHING, IMAGENET


def test_the_paper_s_recipes_are_as_published():
    cifar, imagenet = find_recipe("cifar"), find_recipe("imagenet")
    assert (cifar.epochs, cifar.batch_size) == (300, 64)
    ends = [cifar.epochs * part for part in cifar.milestones]
    assert ends == pytest.approx([149, 224]), "epochs 150 and 225 have the lower rate"
    assert cifar.partial_batch
    assert cifar.crop_padding == 4
    assert (imagenet.epochs, imagenet.batch_size) == (100, 256)
    assert [imagenet.epochs * part for part in imagenet.milestones] == [30, 60, 90]
    for recipe in (cifar, imagenet):
        assert recipe.schedule == "step"
        assert (recipe.learning_rate, recipe.momentum, recipe.weight_decay) == (0.1, 0.9, 1e-4)
        assert recipe.label_smoothing == recipe.ema_decay == recipe.warmup == 0


def test_recipes_are_found_by_name_and_suit_their_data():
    assert all(RECIPES[name].name == name for name in RECIPES)
    names = [default_recipe(task).name for task in (CIFAR10, CIFAR100, IMAGENET, CLOTHING)]
    assert names == ["cifar-quick", "cifar-quick", "imagenet", "photos"]
    assert default_recipe(dataclasses.replace(CLOTHING, image_size=64)).name == "cifar-quick"
    with pytest.raises(UnknownNameError) as caught:
        find_recipe("imagnet")
    assert caught.value.nearest == "imagenet"


def test_every_value_can_be_overridden():
    values = {
        "epochs": 7, "batch_size": 10, "learning_rate": 0.3, "schedule": "cosine",
        "milestones": (0.2, 0.4), "warmup": 0.3, "momentum": 0.0, "weight_decay": 0.0,
        "label_smoothing": 0.2, "ema_decay": 0.9, "crop_padding": 0,
        "cutout": 8, "flip": "none", "mixup": 0.2, "cutmix": 1.0, "class_weights": "balanced",
        "sampling": "balanced", "augment": "trivial", "head_first": 0.1,
        "freeze_norms": True, "partial_batch": False,
        "patience": 5,
        "muon_rate": 0.05, "muon_momentum": 0.6, "bias_rate": 8.0, "whiten": True,
        "small_images": 0.5, "distillation": 0.3, "crop_area": 0.5,
    }  # fmt: skip
    changed = override(find_recipe("cifar"), **values)
    assert dataclasses.asdict(changed) == {"name": "cifar", **values}
    assert override(find_recipe("cifar"), **dict.fromkeys(values)) == find_recipe("cifar")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("batch_size", 1), ("learning_rate", 0), ("learning_rate", math.nan),
        ("learning_rate", math.inf), ("milestones", (0.5, 0.5)), ("milestones", (0.0,)),
        ("milestones", (0.5, 1.0)), ("milestones", (math.nan,)), ("warmup", 1), ("momentum", -0.1),
        ("momentum", 1), ("weight_decay", -1e-9), ("label_smoothing", 1.5), ("ema_decay", 1),
        ("crop_padding", -1), ("cutout", -1), ("mixup", -1), ("patience", -1),
        ("mixup", math.inf), ("cutmix", math.nan),
    ],
)  # fmt: skip
def test_values_out_of_range(name, value):
    with pytest.raises(UsageError, match=f"^--{name.replace('_', '-')} "):
        override(find_recipe("cifar"), **{name: value})


def test_an_unknown_schedule():
    with pytest.raises(UnknownNameError) as caught:
        override(find_recipe("cifar"), schedule="cosin")
    assert (caught.value.kind, caught.value.nearest) == ("schedule", "cosine")
    with pytest.raises(UnknownNameError) as caught:
        override(find_recipe("cifar"), flip="alternate")
    assert (caught.value.kind, caught.value.nearest) == ("flip", "alternating")


@pytest.mark.parametrize(
    ("name", "task", "values", "flag"),
    [
        ("cifar-quick", CIFAR10, {"schedule": "step"}, "--milestones"),
        ("cifar", CIFAR10, {"milestones": ()}, "--milestones"),
        ("cifar-quick", CIFAR10, {"milestones": (0.5,)}, "--schedule step"),
        ("cifar", CIFAR10, {"warmup": 0.1}, "--schedule one-cycle"),
        ("imagenet", IMAGENET, {"cutout": 16}, "--cutout"),
        ("imagenet", IMAGENET, {"crop_padding": 4}, "--crop-padding"),
        ("cifar-quick", CIFAR10, {"crop_area": 0.5}, "--crop-padding"),
        ("photos", IMAGENET, {"muon_rate": 0.0, "muon_momentum": 0.6}, "--muon-rate"),
        ("cifar", CIFAR10, {"cutout": 63}, "Use less than 63"),
        ("cifar", CIFAR10, {"sampling": "balanced", "class_weights": "balanced"}, "one of them"),
    ],
)
def test_values_without_effect_or_that_leave_nothing(name, task, values, flag):
    with pytest.raises(UsageError, match=flag):
        choose_recipe(task, name, **values)


@pytest.mark.parametrize(
    ("name", "task", "values"),
    [
        ("cifar-quick", CIFAR10, {"schedule": "step", "milestones": (0.5,)}),
        ("cifar", CIFAR10, {"schedule": "cosine", "warmup": 0.1}),
        ("cifar", CIFAR10, {"warmup": 0.0, "cutout": 62}),
        ("imagenet", IMAGENET, {"crop_padding": 0, "cutout": 0}),
        ("cifar", IMAGENET, {}),  # whose crops are padded, and ImageNet's are not
    ],
)
def test_values_that_do_something_or_ask_for_nothing(name, task, values):
    choose_recipe(task, name, **values)


def rates(recipe: Recipe, steps: int) -> list[float]:
    return [recipe.learning_rate * learning_rate(recipe, steps)(step) for step in range(steps)]


@pytest.mark.parametrize(("name", "drops"), [("cifar", [149, 224]), ("imagenet", [30, 60, 90])])
def test_the_rate_in_steps(name, drops):
    """Ten steps an epoch."""
    found = rates(find_recipe(name), 10 * find_recipe(name).epochs)
    drops = [10 * drop for drop in drops]
    assert found[0] == 0.1
    for number, drop in enumerate(drops, 1):
        assert found[drop - 1] == pytest.approx(0.1 * 0.1 ** (number - 1))
        assert found[drop] == pytest.approx(0.1 * 0.1**number)
    assert len(set(found)) == len(drops) + 1


def test_the_rate_up_and_down():
    recipe = find_recipe("cifar-quick")
    found = rates(recipe, 1000)
    peak = found.index(max(found))
    assert max(found) == pytest.approx(recipe.learning_rate)
    assert peak == pytest.approx(recipe.warmup * 1000, abs=2)
    assert all(a < b for a, b in itertools.pairwise(found[:peak]))
    assert found[(1000 + peak) // 2] == pytest.approx(recipe.learning_rate / 2, rel=0.01)
    assert 0 < found[-1] < 0.01 * recipe.learning_rate


def test_the_rate_as_half_a_cosine():
    recipe = override(find_recipe("cifar-quick"), schedule="cosine", warmup=0.1)
    found = rates(recipe, 1000)
    assert found[:100] == pytest.approx([recipe.learning_rate * (i + 1) / 100 for i in range(100)])
    for step in range(100, 1000):
        angle = math.pi * (step - 99) / 901
        expected = recipe.learning_rate * (1 + math.cos(angle)) / 2
        assert found[step] == pytest.approx(expected)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("schedule", ["step", "one-cycle", "cosine"])
def test_a_run_of_one_step_has_a_rate(recipe, schedule):
    (rate,) = rates(override(recipe, schedule=schedule), 1)
    assert 0 < rate <= recipe.learning_rate
