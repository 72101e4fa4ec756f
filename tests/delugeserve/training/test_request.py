"""From a command line to the settings of a run, and what it refuses."""

import dataclasses
import json

import pytest

from delugeserve.data.sources import find_on_disk
from delugeserve.errors import DatasetError, ResumeError, UsageError
from delugeserve.training.config import RunConfig, TaskOptions
from delugeserve.training.recipes import find_recipe
from delugeserve.training.records import as_recorded
from delugeserve.training.request import request_resume, request_run

CONFIG = RunConfig("delugenet38", find_recipe("cifar-quick"), 3, "bf16", "cifar10", limit=100)


@pytest.fixture
def folder(tmp_path):
    """A run that was interrupted."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps(as_recorded(CONFIG)))
    return tmp_path / "run"


@pytest.fixture
def ended(folder):
    (folder / "metrics.json").write_text('{"top1_error": 9.5}')
    return folder


def test_a_run_is_resumed_with_its_own_settings(folder):
    request = request_resume(folder, {}, {})
    assert (request.config, request.output, request.resume) == (CONFIG, folder, True)
    assert request.spec.name == "delugenet38"


def test_settings_that_are_repeated_must_be_the_same(folder):
    same = {"seed": 3, "limit": 100}
    assert request_resume(folder, same, {"epochs": 30}).config == CONFIG
    with pytest.raises(ResumeError) as caught:
        request_resume(folder, {"seed": 5, "data": "other"}, {"momentum": 0.8})
    assert caught.value.changed == {
        "seed": (3, 5), "data": ("cifar10", "other"), "momentum": (0.9, 0.8),
    }  # fmt: skip
    with pytest.raises(ResumeError) as caught:
        request_resume(folder, {}, {"name": "cifar"})
    assert caught.value.changed == {"recipe": ("cifar-quick", "cifar")}


def test_more_epochs_but_not_fewer(folder):
    assert request_resume(folder, {}, {"epochs": 60}).config.recipe.epochs == 60
    with pytest.raises(ResumeError) as caught:
        request_resume(folder, {}, {"epochs": 10})
    assert caught.value.changed == {"epochs": (30, 10)}
    assert caught.value.remedy.endswith("leave out --epochs.")


def test_a_run_that_has_ended_needs_more_epochs(ended):
    for recipe in ({}, {"epochs": 30}):
        with pytest.raises(UsageError, match=r"has ended.*--epochs 60"):
            request_resume(ended, {}, recipe)
    assert request_resume(ended, {}, {"epochs": 31}).config.recipe.epochs == 31


def test_there_is_nothing_to_resume(tmp_path, folder):
    with pytest.raises(UsageError, match="holds no run"):
        request_resume(tmp_path, {}, {})
    (folder / "run.json").write_text("{")
    with pytest.raises(UsageError, match=r"run\.json cannot be read"):
        request_resume(folder, {}, {})
    later = as_recorded(dataclasses.replace(CONFIG)) | {"later": 1}
    (folder / "run.json").write_text(json.dumps(later))
    with pytest.raises(UsageError, match="this version does not know"):
        request_resume(folder, {}, {})


def test_a_misspelt_run_or_data_set_is_found(tmp_path, folder):
    with pytest.raises(UsageError) as caught:
        request_resume(folder.with_name("rum"), {}, {})
    assert caught.value.remedy == f"Did you mean '{folder}'?"
    (tmp_path / "flowers").mkdir()
    with pytest.raises(DatasetError) as missing:
        find_on_disk(tmp_path / "flower")
    assert missing.value.name == str(tmp_path / "flowers")


@pytest.mark.parametrize(
    ("recipe", "values", "settings"),
    [
        ("finetune", {}, {}),
        (None, {"freeze_norms": True}, {}),
        (None, {}, {"freeze": True}),
    ],
)
def test_fine_tuning_needs_trained_weights(tmp_path, recipe, values, settings):
    with pytest.raises(UsageError, match="--initial-checkpoint"):
        request_run(
            "delugenet38",
            str(tmp_path),
            tmp_path / "run",
            options=TaskOptions(),
            recipe=recipe,
            recipe_values=values,
            settings=settings,
        )


@pytest.mark.parametrize(("folders", "found"), [(["rose"], 1), (["test/rose"], ("test",))])
def test_data_that_no_classifier_can_be_trained_on(tmp_path, folders, found):
    for folder in folders:
        (tmp_path / "flowers" / folder).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "flowers" / folder / f"{number}.png").touch()
    with pytest.raises(DatasetError) as caught:
        request_run(
            "delugenet38",
            str(tmp_path / "flowers"),
            tmp_path / "run",
            options=TaskOptions(),
            recipe=None,
            recipe_values={},
            settings={},
        )
    assert caught.value.found == found
    assert not (tmp_path / "run").exists()
