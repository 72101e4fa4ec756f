"""The command line of training."""

import json
from typing import get_args

import pytest

from delugeserve import zoo
from delugeserve.cli.options import RecipeName
from delugeserve.networks.checkpoint import load_checkpoint
from delugeserve.training.recipes import RECIPES
from delugeserve.zoo import CIFAR10, Architecture, ModelSpec

TINY = ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6), (2, 2)), CIFAR10)


@pytest.fixture
def data(write_tiny_cifar, tmp_path):
    return write_tiny_cifar(tmp_path / "data")


@pytest.mark.slow
def test_the_recipe_is_printed_first_and_the_result_is_data(run, data, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "MODELS", {"tiny": TINY})
    status, out, err = run(
        "train", "--model", "tiny", "--data", data, "--output", tmp_path / "run", "--json",
        "--epochs", "1", "--batch-size", "50", "--schedule", "step", "--milestones", "0.5,0.75",
    )  # fmt: skip
    assert status == 0, err
    result = json.loads(out)
    assert load_checkpoint(tmp_path / "run" / "tiny.safetensors").metrics == {
        key: value for key, value in result.items() if key != "checkpoint"
    }
    lines = [" ".join(line.split()) for line in err.splitlines()]
    first = lines.index("recipe cifar-quick")
    assert "32x32 pixels" in lines[first - 1], "the size that it trains at"
    assert lines[first + 1 : first + 11] == [
        "epochs 1 (default 30)",
        "batch size 50 (default 128)",
        "learning rate 0.15",
        "schedule step (default one-cycle)",
        "milestones 0.5, 0.75 (default none)",
        "momentum 0.9",
        "weight decay 0.0005",
        "label smoothing 0.1",
        "ema decay 0.999",
        "crop padding 4",
    ]


def test_a_flag_that_does_nothing_is_refused(run, data, tmp_path):
    command = ("train", "--model", "delugenet38", "--data", data, "--output")
    for flags in (("--milestones", "0.5"), ("--schedule", "step")):
        status, out, err = run(*command, tmp_path / "run", *flags)
        assert (status, out) == (2, "")
        assert "--milestones" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "value", "nearest"),
    [
        ("--recipe", "cifar-quik", "cifar-quick"),
        ("--precision", "bf61", "bf16"),
        ("--schedule", "cosin", "cosine"),
        ("--on-unreadable", "skp", "skip"),
    ],
)
def test_an_unknown_choice_suggests_the_nearest(run, tmp_path, option, value, nearest):
    command = ("train", "--model", "delugenet38", "--data", tmp_path, "--output", tmp_path / "run")
    status, out, err = run(*command, option, value)
    assert (status, out) == (2, "")
    assert f"Did you mean '{nearest}'?" in err


def test_the_choices_of_recipes_are_all_there_are():
    assert set(get_args(RecipeName)) == set(RECIPES)


def test_a_folder_without_images(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for model in ("delugenet38", "delugenet92"):
        status, out, err = run(
            "train", "--model", model, "--data", tmp_path / "empty", "--output", tmp_path / "run"
        )
        assert (status, out) == (2, "")
        assert str(tmp_path / "empty") in err
    assert not (tmp_path / "run").exists(), "nothing half-written"
