"""Training on a tiny learnable data set: it learns, resumes exactly, and says what is wrong."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from delugeserve.checkpoint import load_checkpoint
from delugeserve.errors import DatasetError, TrainingError, UsageError
from delugeserve.training.log import read_log
from delugeserve.training.module import TrainingModule
from delugeserve.training.recipes import RECIPES, find_recipe
from delugeserve.training.run import RunConfig, resolve_precision, train
from delugeserve.zoo import CIFAR10, ModelSpec

TINY = ModelSpec("tiny", "cifar", (4, 6), (2, 2), CIFAR10)


@pytest.fixture
def config(tiny_cifar):
    recipe = dataclasses.replace(
        find_recipe("cifar-quick"), epochs=3, batch_size=20, learning_rate=0.05
    )
    return RunConfig("tiny", recipe, seed=0, precision="fp32", data=str(tiny_cifar))


def tensors_of(path):
    return load_checkpoint(path).state


def test_it_learns_and_records(config, tmp_path):
    lines = []
    path, evaluation = train(TINY, config, tmp_path / "run", say=lines.append)
    assert evaluation.top1_error < 60, "the classes are plain colours"
    checkpoint = load_checkpoint(path, TINY)
    assert checkpoint.metrics["top1_error"] == evaluation.top1_error
    assert checkpoint.recipe["epochs"] == 3
    assert len(checkpoint.data["train_fingerprint"]) == 64
    rows = read_log(tmp_path / "run" / "log.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert sum("epoch" in line for line in lines) == 3


def test_the_same_seed_gives_the_same_weights_and_another_does_not(config, tmp_path):
    short = dataclasses.replace(config, limit=60)
    one, _ = train(TINY, short, tmp_path / "one")
    two, _ = train(TINY, short, tmp_path / "two")
    other, _ = train(TINY, dataclasses.replace(short, seed=1), tmp_path / "other")
    same = [torch.equal(tensors_of(one)[name], t) for name, t in tensors_of(two).items()]
    assert all(same)
    assert not torch.equal(
        tensors_of(one)["head.linear.weight"], tensors_of(other)["head.linear.weight"]
    )


def test_a_killed_run_resumes_to_the_same_bits(config, tiny_cifar, tmp_path):
    whole, _ = train(TINY, config, tmp_path / "whole")

    script = (
        "import sys, pickle\n"
        "from pathlib import Path\n"
        "from delugeserve.training.run import train\n"
        "spec, config, output = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "train(spec, config, Path(output), say=lambda line: print(line, flush=True))\n"
    )
    import pickle

    output = tmp_path / "killed"
    argument = pickle.dumps((TINY, config, str(output))).hex()
    process = subprocess.Popen([sys.executable, "-c", script, argument], stdout=subprocess.PIPE)
    assert process.stdout
    for line in process.stdout:
        if line.startswith(b"epoch   1"):
            break
    deadline = time.monotonic() + 30
    while not (output / "last.ckpt").is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (output / "tiny.safetensors").exists()

    resumed, _ = train(TINY, config, output, resume=True)
    for name, tensor in tensors_of(whole).items():
        assert torch.equal(tensor, tensors_of(resumed)[name]), name
    assert [row["epoch"] for row in read_log(output / "log.csv")] == ["1", "2", "3"]


def test_an_existing_run_is_not_overwritten(config, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="already holds a run"):
        train(TINY, config, tmp_path)


def test_nothing_to_resume(config, tmp_path):
    with pytest.raises(UsageError, match="holds no run to resume"):
        train(TINY, config, tmp_path, resume=True)


def test_a_resumed_run_must_be_asked_the_same(config, tmp_path):
    asked = json.loads(json.dumps(dataclasses.asdict(config)))
    (tmp_path / "run.json").write_text(json.dumps(asked | {"seed": 5}))
    with pytest.raises(UsageError, match="with another seed"):
        train(TINY, config, tmp_path, resume=True)


def test_training_images_are_no_test_images(config, tiny_cifar, tmp_path):
    only = tiny_cifar / "mine.parquet"
    (tiny_cifar / "train.parquet").rename(only)
    with pytest.raises(DatasetError, match="the same images"):
        train(TINY, dataclasses.replace(config, data=str(only)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_the_run(config, tmp_path):
    recipe = dataclasses.replace(config.recipe, learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"step \d+"):
        train(TINY, dataclasses.replace(config, recipe=recipe), tmp_path / "run")


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_the_schedules(recipe):
    module = TrainingModule(torch.nn.Linear(1, 1), CIFAR10, recipe, seed=0)

    class Trainer:
        estimated_stepping_batches = 1000

    module._trainer = Trainer()
    module._fabric = None
    configured = module.configure_optimizers()
    optimiser, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(1000):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert max(rates) == pytest.approx(recipe.learning_rate)
    if recipe.schedule == "step":
        assert rates[499] == pytest.approx(0.1)
        assert rates[500] == pytest.approx(0.01)
        assert rates[750] == rates[-1] == pytest.approx(0.001)
    else:
        peak = rates.index(max(rates))
        assert peak == pytest.approx(recipe.warmup * 1000, abs=2)
        assert 0 < rates[-1] < 0.01 * recipe.learning_rate
        assert all(a > b for a, b in zip(rates[peak:], rates[peak + 1 :], strict=False))


def test_precision_follows_the_processor(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for native, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("delugeserve.hardware.has_native_bf16", lambda native=native: native)
        assert resolve_precision("auto") == expected
    assert resolve_precision("fp32") == "fp32"
