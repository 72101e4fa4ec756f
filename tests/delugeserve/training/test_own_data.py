"""Runs on classes of the data: which images they are measured on, and fine-tuning for them."""

import csv
import dataclasses
import json
import shutil

import pytest
import torch
from PIL import Image

from delugeserve import zoo
from delugeserve.data.catalogue import open_source
from delugeserve.errors import CheckpointError, DatasetError, UsageError
from delugeserve.networks.checkpoint import load_checkpoint
from delugeserve.training.config import TaskOptions
from delugeserve.training.initial import fit_classifier
from delugeserve.training.records import as_recorded, read_config, read_run
from delugeserve.training.request import request_run
from delugeserve.training.run import train
from delugeserve.training.splits import read_images

pytestmark = pytest.mark.slow
FLOWERS = ("daisy", "rose", "tulip")
SPLITS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch, tiny_spec):
    monkeypatch.setattr(zoo, "MODELS", {"tiny": tiny_spec})


def request(data, output, *, recipe=None, **settings):
    values = {"epochs": 2, "batch_size": 12, "learning_rate": 0.05}
    return request_run(
        "tiny", str(data), output, options=TaskOptions(**settings.pop("options", {})),
        recipe=recipe, recipe_values=values, val_fraction=settings.pop("val_fraction", None),
        settings={"seed": 0, "precision": "fp32", **settings},
    )  # fmt: skip


def run(one):
    return train(one.spec, one.config, one.output, catalogue=one.catalogue)


@pytest.fixture(scope="module")
def data(write_class_folders, tmp_path_factory):
    return write_class_folders(tmp_path_factory.mktemp("data") / "flowers", FLOWERS, splits=SPLITS)


@pytest.fixture(scope="module")
def flowers(data, tmp_path_factory, tiny_spec):
    """The folder of a run on flowers."""
    folder = tmp_path_factory.mktemp("runs") / "flowers"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "MODELS", {"tiny": tiny_spec})
        run(request(data, folder))
    return folder


def test_a_folder_becomes_a_network_of_its_classes(flowers, data):
    checkpoint = load_checkpoint(flowers / "flowers.safetensors")
    assert checkpoint.spec.task.class_names == FLOWERS
    assert (checkpoint.spec.name, checkpoint.spec.architecture.name) == ("flowers", "tiny")
    assert checkpoint.state["head.linear.weight"].shape[0] == 3
    recorded = json.loads((flowers / "run.json").read_text())
    assert recorded["task"]["class_names"] == list(FLOWERS)
    assert (recorded["name"], recorded["model"]) == ("flowers", "tiny")


def test_each_split_is_measured_when_it_should_be(flowers, data):
    metrics = json.loads((flowers / "metrics.json").read_text())
    assert (metrics["split"], metrics["num_images"]) == ("test", 27)
    found = load_checkpoint(flowers / "flowers.safetensors").data
    fingerprints = {found[f"{split}_fingerprint"] for split in SPLITS}
    assert len(fingerprints) == 3
    task = load_checkpoint(flowers / "flowers.safetensors").spec.task
    images = open_source(data).load("validation", task)
    assert found["validation_fingerprint"] == images.fingerprint


def test_the_epochs_are_measured_on_the_validation_split(flowers):
    record = read_run(flowers)
    assert (record.watched, record.measured) == ("validation", "test")
    with (flowers / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    # 27 images: an error is a multiple of 1 / 27.
    assert all(round(float(row["val_error"]) * 0.27, 1).is_integer() for row in rows)


def test_without_a_test_split_the_validation_split_is_all_there_is(write_class_folders, tmp_path):
    data = write_class_folders(tmp_path / "data", FLOWERS)
    one = request(data, tmp_path / "run")
    images = read_images(one.config, one.spec.task, catalogue=one.catalogue)
    assert (images.watched_split, images.final_split) == ("validation", "validation")
    assert (len(images.train), len(images.watched), len(images.final)) == (24, 3, 3)
    with pytest.raises(DatasetError) as caught:
        request(data, tmp_path / "run", val_fraction=0.0)
    assert caught.value.found == ("train",)


def test_a_registered_data_set_is_divided_as_the_recipe_says(tmp_path, tiny_cifar):
    quick = request(tiny_cifar, tmp_path / "run")
    assert (quick.config.task, quick.config.val_fraction) == (None, 0.0)
    images = read_images(quick.config, quick.spec.task)
    assert (images.watched_split, len(images.train)) == ("test", 200)

    held_out = request(tiny_cifar, tmp_path / "run", val_fraction=0.1)
    images = read_images(held_out.config, held_out.spec.task)
    assert (images.watched_split, images.final_split) == ("validation", "test")
    assert (len(images.train), len(images.watched), len(images.final)) == (180, 20, 100)
    assert request(tiny_cifar, tmp_path / "run", recipe="photos").config.val_fraction == 0.1


def test_a_fraction_that_has_no_effect(data, tmp_path):
    with pytest.raises(UsageError, match="has a validation split"):
        request(data, tmp_path / "run", val_fraction=0.2)


def test_a_run_is_not_resumed_on_other_images(flowers, data, tmp_path, write_class_folders):
    folder, own = tmp_path / "flowers", tmp_path / "data"
    shutil.copytree(flowers, folder)
    shutil.copytree(data, own)
    config = dataclasses.replace(read_config(read_run(folder)), data=str(own))
    (folder / "run.json").write_text(json.dumps(as_recorded(config)))
    train(config.network(), config, folder, resume=True)
    Image.new("RGB", (40, 40), "red").save(own / "train" / "rose" / "0.png")
    with pytest.raises(DatasetError) as caught:
        train(config.network(), config, folder, resume=True)
    assert caught.value.name == "train"


# Fine-tuning


def test_the_classifier_keeps_the_classes_that_it_knows(flowers, write_class_folders, tmp_path):
    data = write_class_folders(tmp_path / "data", ("Rose", "aster", "tulip"))
    one = request(data, tmp_path / "run", initial_checkpoint=str(flowers))
    assert one.config.recipe.name == "finetune"
    before = load_checkpoint(flowers / "flowers.safetensors")
    assert one.spec.task.class_names == ("Rose", "aster", "tulip")
    state, kept = fit_classifier(before, one.spec, seed=0)
    assert kept == ["Rose", "tulip"]
    for name in ("head.linear.weight", "head.linear.bias"):
        assert torch.equal(state[name][0], before.state[name][1])
        assert torch.equal(state[name][2], before.state[name][2])
    assert not torch.equal(state["head.linear.weight"][1], before.state["head.linear.weight"][0])
    assert torch.equal(state["stem.conv.weight"], before.state["stem.conv.weight"])


def test_known_classes_are_tuned_more_carefully(flowers, data, write_class_folders, tmp_path):
    known = request_run(
        "tiny", str(data), tmp_path / "run", options=TaskOptions(), recipe=None,
        recipe_values={"head_first": 0.5}, settings={
            "seed": 0, "precision": "fp32", "initial_checkpoint": str(flowers)
        },
    ).config.recipe  # fmt: skip
    assert (known.learning_rate, known.freeze_norms) == (3e-4, True)
    assert known.head_first == 0.5, "what is given has priority"
    others = write_class_folders(tmp_path / "data", ("rose", "aster"))
    new = request(others, tmp_path / "run", initial_checkpoint=str(flowers)).config.recipe
    assert (new.head_first, new.freeze_norms) == (0.2, False)


def test_what_was_kept_is_said_and_recorded(flowers, write_class_folders, tmp_path, caplog):
    caplog.set_level("INFO", "delugeserve.training")
    data = write_class_folders(tmp_path / "data", ("rose", "aster"), images=5)
    run(request(data, tmp_path / "run", initial_checkpoint=str(flowers)))
    assert "head: 1 of 2 classes kept, made anew: 'aster'" in caplog.messages
    assert any("takes all 8 training images" in text for text in caplog.messages)
    record = json.loads((tmp_path / "run" / "initial.json").read_text())
    assert record["kept_classes"] == ["rose"]


def test_a_network_that_knows_the_classes_is_measured_first(flowers, data, tmp_path, caplog):
    caplog.set_level("INFO", "delugeserve.training")
    run(request(data, tmp_path / "run", initial_checkpoint=str(flowers)))
    assert not any("single step" in text for text in caplog.messages)
    assert any(text.startswith("before training: validation error ") for text in caplog.messages)
    assert not any(text.startswith("head: ") for text in caplog.messages)


def test_frozen_weights_stay_as_they_are(flowers, write_class_folders, tmp_path):
    data = write_class_folders(tmp_path / "data", ("rose", "aster", "tulip"))
    one = request(
        data, tmp_path / "run", initial_checkpoint=str(flowers), freeze=True,
        options={"image_size": 48},
    )  # fmt: skip
    path, _ = run(one)
    before, after = (load_checkpoint(p) for p in (flowers / "flowers.safetensors", path))
    assert after.spec.task.image_size == 48, "from one size to another"
    for name in after.state.keys() - {"head.linear.weight", "head.linear.bias"}:
        # Within the rounding of their moving average.
        torch.testing.assert_close(after.state[name], before.state[name], rtol=1e-6, atol=0)


def test_the_initial_network_is_kept_if_no_epoch_is_better(flowers, data, tmp_path, caplog):
    one = request(data, tmp_path / "run", initial_checkpoint=str(flowers))
    assert one.config.recipe.freeze_norms, "it knows the classes"
    still = dataclasses.replace(one.config.recipe, learning_rate=1e-9)
    before = load_checkpoint(flowers / "flowers.safetensors")
    config = dataclasses.replace(one.config, recipe=still)
    path, evaluation = train(one.spec, config, one.output, catalogue=one.catalogue)
    after = load_checkpoint(path)
    assert evaluation.epoch == after.recipe["epoch"] == 0
    assert all(torch.equal(tensor, after.state[name]) for name, tensor in before.state.items())
    assert any("its weights are kept" in text for text in caplog.messages)
    assert read_run(tmp_path / "run").best is None
    assert not (tmp_path / "run" / "best.safetensors").exists()


def last(folder):
    """The weights after the last epoch, which need not be the best."""
    state = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    return {name.removeprefix("network."): tensor for name, tensor in state.items()}


def test_the_classifier_is_trained_first(flowers, data, tmp_path, monkeypatch):
    """Half of the steps leave all other weights as they are."""
    one = request(data, tmp_path / "run", initial_checkpoint=str(flowers))
    recipe = dataclasses.replace(one.config.recipe, head_first=0.5, ema_decay=0.0)
    folders = [tmp_path / "half", tmp_path / "whole"]
    train(one.spec, dataclasses.replace(one.config, recipe=recipe), folders[0])
    before, after = load_checkpoint(flowers / "flowers.safetensors").state, last(folders[0])
    assert not torch.equal(before["stem.conv.weight"], after["stem.conv.weight"])
    recipe = dataclasses.replace(recipe, head_first=0.99)
    train(one.spec, dataclasses.replace(one.config, recipe=recipe), folders[1])
    after = last(folders[1])
    assert torch.equal(before["stem.conv.weight"], after["stem.conv.weight"])
    assert not torch.equal(before["head.linear.weight"], after["head.linear.weight"])


def test_another_architecture_is_refused(flowers, data, tmp_path, tiny_spec, monkeypatch):
    other = dataclasses.replace(
        tiny_spec, name="other", architecture=dataclasses.replace(
            tiny_spec.architecture, name="other", widths=(8, 8)
        ),
    )  # fmt: skip
    monkeypatch.setattr(zoo, "MODELS", {"tiny": other})
    with pytest.raises(CheckpointError) as caught:
        request(data, tmp_path / "run", initial_checkpoint=str(flowers))
    assert (caught.value.expected, caught.value.found) == ("other", "tiny")


def test_freezing_needs_weights_to_freeze(data, tmp_path):
    with pytest.raises(UsageError, match="--freeze"):
        request(data, tmp_path / "run", freeze=True)
    assert not (tmp_path / "run").exists()
