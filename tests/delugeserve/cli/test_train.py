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


FLOWERS = ("--model", "delugenet38", "--data", "flowers")


@pytest.fixture
def flowers(write_class_folders, tmp_path, monkeypatch):
    """The folder ``flowers`` and one of a single class, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DELUGESERVE_DATA", raising=False)
    write_class_folders(tmp_path / "flowers", ("daisy", "rose"), images=3)
    write_class_folders(tmp_path / "one", ("rose",), images=3)
    write_class_folders(tmp_path / "split", ("daisy", "rose"), images=3,
                        splits=("train", "validation"))  # fmt: skip
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "problem", "remedy"),
    [
        (("--data", "flowers"), "needs --model", "--resume RUN"),
        (("--model", "delugenet38"), "needs --data", "--resume RUN"),
        (("--model", "delugnet38", "--data", "flowers"), "no model", "'delugenet38'"),
        (("--model", "delugenet38", "--data", "one"), "only one class", "two or more"),
        (("--model", "delugenet38", "--data", "split", "--val-fraction", "0.2"),
         "has a validation split", "Leave it out"),
        ((*FLOWERS, "--image-size", "30"), "multiple of 4", "28 or 32"),
        ((*FLOWERS, "--normalise", "dat"), "not one of", "'data'"),
        ((*FLOWERS, "--freeze"), "--freeze", "--initial-checkpoint"),
        ((*FLOWERS, "--initial-checkpoint", "nowhere.safetensors"), "nowhere", ""),
        ((*FLOWERS, "--initial-checkpoint", "wide_delugenet38"), "architecture",
         "--model wide_delugenet38"),
        ((*FLOWERS, "--name", "my flowers"), "cannot", ""),
        ((*FLOWERS, "--name", "delugenet38"), "registered model", "--name"),
        (("--resume", "flowers"), "holds no run", "delugeserve runs"),
        (("--resume", "flowers", "--image-size", "32"), "--image-size", "Leave it out"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_leaves_nothing(run, flowers, arguments, problem, remedy):
    output = () if "--resume" in arguments else ("--output", "runs/new")
    before = sorted(flowers.rglob("*"))
    status, out, err = run("train", *arguments, *output)
    assert (status, out) == (2, ""), err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert problem in line
    assert remedy in line
    assert "Traceback" not in err
    assert sorted(flowers.rglob("*")) == before
