"""Training on images that are decoded as they are needed: a miniature ImageNet of two classes."""

import csv
import dataclasses
import json
import multiprocessing

import pytest
import torch

from delugeserve import zoo
from delugeserve.errors import StoppedError, TrainingError
from delugeserve.networks.checkpoint import load_checkpoint
from delugeserve.training.batches import Reading
from delugeserve.training.config import RunConfig
from delugeserve.training.recipes import find_recipe, override
from delugeserve.training.run import train
from delugeserve.zoo import IMAGENET, Architecture, ModelSpec

MINI_IMAGENET = dataclasses.replace(
    IMAGENET, class_names=IMAGENET.class_names[:2], image_size=72, resize_size=80
)
MINI = ModelSpec("mini", Architecture("mini", "imagenet", (4, 6), (2, 2)), MINI_IMAGENET)
FLAGS = (
    "--epochs",
    "3",
    "--batch-size",
    "12",
    "--recipe",
    "imagenet",
    "--milestones",
    "0.5",
    "--precision",
    "fp32",
)


@pytest.fixture
def command(run, monkeypatch, tmp_path):
    """Run ``train`` on the miniature; gives status, standard output and standard error."""
    monkeypatch.setattr(zoo, "MODELS", {"mini": MINI})
    options = ("--model", "mini", "--output", tmp_path / "run", *FLAGS)
    return lambda *more: run("train", *options, *more)


@pytest.mark.parametrize("layout", ["folder", "parquet"])
def test_from_files_to_a_checkpoint(command, tmp_path, write_tiny_imagenet, layout):
    data = write_tiny_imagenet(tmp_path / "images", layout)
    status, out, err = command("--data", data, "--workers", "2", "--json")
    assert status == 0, err
    assert "recipe imagenet\n" in err
    assert ", 72x72 pixels, " in err
    result = json.loads(out)
    assert result["num_images"] == 20
    assert result["top1_error"] < 20, "one class is dark, the other bright"
    checkpoint = load_checkpoint(tmp_path / "run" / "run.safetensors")
    assert checkpoint.class_names == ("night", "noon"), "a task of its own"
    assert (checkpoint.spec.task.image_size, checkpoint.spec.task.resize_size) == (72, 80)
    assert checkpoint.recipe["name"] == "imagenet"
    with (tmp_path / "run" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([0.1, 0.01, 0.01])
    assert float(rows[-1]["val_error"]) == result["top1_error"]


def test_workers_and_resuming_change_nothing(tmp_path, write_tiny_imagenet, at_stage):
    data = write_tiny_imagenet(tmp_path / "images", "folder", train=24)
    recipe = override(find_recipe("imagenet"), epochs=2, batch_size=12)
    config = RunConfig("mini", recipe, seed=0, precision="fp32", data=str(data))
    train(MINI, config, tmp_path / "whole")

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(StoppedError):
        train(MINI, config, tmp_path / "stopped", progress=at_stage("test epoch 2", stop))
    train(MINI, config, tmp_path / "stopped", reading=Reading(workers=1), resume=True)
    whole, stopped = (
        load_checkpoint(tmp_path / name / "mini.safetensors").state for name in ("whole", "stopped")
    )
    assert all(torch.equal(tensor, stopped[name]) for name, tensor in whole.items())


def test_a_worker_that_dies_ends_the_run_with_what_to_do(tmp_path, write_tiny_imagenet, at_stage):
    data = write_tiny_imagenet(tmp_path / "images", "folder", train=24)
    recipe = override(find_recipe("imagenet"), epochs=2, batch_size=12)
    config = RunConfig("mini", recipe, seed=0, precision="fp32", data=str(data))

    def kill():
        for worker in multiprocessing.active_children():
            worker.kill()

    progress = at_stage("epoch 2", kill)
    with pytest.raises(TrainingError, match=r"--workers.*--shm-size"):
        train(MINI, config, tmp_path / "run", reading=Reading(workers=1), progress=progress)


def test_an_unreadable_image_ends_the_run_or_is_skipped(
    run, command, tmp_path, write_tiny_imagenet
):
    data = write_tiny_imagenet(tmp_path / "images", "folder", train=24)
    bad = next(data.glob("train/noon/*.JPEG"))
    bad.write_bytes(b"no image")
    status, out, err = command("--data", data)
    assert (status, out) == (2, "")
    assert str(bad) in err
    assert "Traceback" not in err
    # The run that has stopped there can go on without the image.
    status, out, err = run("train", "--resume", tmp_path / "run", "--on-unreadable", "skip")
    assert status == 0, err
    assert sum(str(bad) in line for line in err.splitlines()) == 3, "once an epoch"
