import dataclasses

import pytest

from delugeserve.cli.render.recipe import print_recipe
from delugeserve.training.config import RunConfig
from delugeserve.training.recipes import find_recipe
from delugeserve.zoo import IMAGENET

PHOTOS = {"task": IMAGENET}


@pytest.fixture
def printed(capsys):
    """Prints a recipe, with values and settings changed; returns the lines."""

    def printed(recipe="cifar-quick", settings=None, **values):
        chosen = dataclasses.replace(find_recipe(recipe), **values)
        settings = {"seed": 0, "precision": "fp32", "data": "cifar10", **(settings or {})}
        print_recipe(RunConfig("delugenet38", chosen, **settings))
        return [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]

    return printed


def test_what_is_switched_off_is_left_out(printed):
    lines = printed()
    assert "epochs 30" in lines
    assert not [line for line in lines if line.startswith(("cutout", "muon", "bias", "milestones"))]


def test_what_was_overridden_is_printed_with_its_default(printed):
    assert "ema decay 0 (default 0.999)" in printed(ema_decay=0.0)
    lines = printed(muon_rate=0.05)
    assert "muon rate 0.05 (default 0)" in lines
    assert "muon momentum 0.95" in lines


@pytest.mark.parametrize(
    ("line", "shown", "hidden"),
    [
        ("distillation 0.5", {"settings": {"teacher": "a.safetensors"}}, {}),
        ("crop area 0.3", {"recipe": "photos", "settings": PHOTOS}, {"recipe": "photos"}),
        ("crop padding 4", {}, {"settings": PHOTOS}),
        (
            "head first 0.2",
            {"recipe": "finetune"},
            {"recipe": "finetune", "settings": {"freeze": True}},
        ),
        ("warmup 0.15", {}, {"recipe": "cifar"}),
    ],
)
def test_what_has_no_effect_is_left_out(printed, line, shown, hidden):
    assert line in printed(**shown)
    name = line.rpartition(" ")[0]
    assert not [found for found in printed(**hidden) if found.startswith(f"{name} ")]
