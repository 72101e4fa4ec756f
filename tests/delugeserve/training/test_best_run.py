"""Runs with a validation split: the best epoch is saved, patience ends them, resuming agrees."""

import csv
import json

import pytest
import torch

from delugeserve.artifacts.checkpoints import read_header
from delugeserve.errors import StoppedError, UsageError
from delugeserve.networks.checkpoint import load_checkpoint
from delugeserve.training.request import request_resume
from delugeserve.training.run import train


def errors(folder):
    with (folder / "log.csv").open() as file:
        return [float(row["val_error"]) for row in csv.DictReader(file)]


def interrupt():
    raise KeyboardInterrupt


def names(folder):
    return {path.name for path in folder.iterdir() if path.suffix == ".safetensors"}


@pytest.fixture(scope="module")
def settings(config, changed):
    """So high a learning rate that the last epoch is not the best one."""
    return changed(
        config, epochs=5, val_fraction=0.2, learning_rate=0.4, ema_decay=0.5, schedule="step",
        milestones=(0.9,), warmup=0.0, limit=80,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(settings, tiny_spec, tmp_path_factory):
    folder = tmp_path_factory.mktemp("best") / "run"
    path, evaluation = train(tiny_spec, settings, folder)
    return folder, path, evaluation


def test_the_checkpoint_has_the_weights_of_the_best_epoch(finished, settings, tiny_spec, tmp_path):
    folder, path, evaluation = finished
    measured = errors(folder)
    best = measured.index(min(measured)) + 1
    assert best < len(measured), "otherwise this test shows nothing"
    assert read_header(path).recipe["epoch"] == best
    assert evaluation.split == "test"
    assert names(folder) == {"tiny.safetensors"}, "best.safetensors has gone"


@pytest.fixture
def stopped(settings, tiny_spec, tmp_path, at_stage):
    """A run that was stopped after its third epoch."""
    folder = tmp_path / "run"
    with pytest.raises(StoppedError):
        train(tiny_spec, settings, folder, progress=at_stage("epoch 4/5", interrupt))
    return folder


def test_a_resumed_run_saves_the_same(finished, stopped, settings, tiny_spec):
    measured = errors(stopped)
    assert len(measured) == 3
    assert names(stopped) == {"best.safetensors"}
    best = load_checkpoint(stopped / "best.safetensors")
    assert best.recipe["epoch"] == measured.index(min(measured)) + 1
    assert best.metrics == {"validation_error": pytest.approx(min(measured), abs=0.01)}
    path, _ = train(tiny_spec, settings, stopped, resume=True)
    again, whole = load_checkpoint(path), load_checkpoint(finished[1])
    assert again.recipe == whole.recipe
    assert all(torch.equal(again.state[name], whole.state[name]) for name in whole.state)


def test_patience_ends_a_run_and_more_epochs_continue_it(settings, changed, tiny_spec, tmp_path):
    folder = tmp_path / "run"
    patient = changed(settings, epochs=30, patience=1)
    path, _ = train(tiny_spec, patient, folder)
    measured = errors(folder)
    assert measured[-1] >= min(measured[:-1])
    assert len(measured) < 30
    assert read_header(path).recipe["epoch"] == len(measured) - 1
    with pytest.raises(UsageError, match=f"after {len(measured)} of at most 30"):
        request_resume(folder, {}, {})
    (folder / "metrics.json").unlink()  # as if it was killed before it was tested
    train(tiny_spec, patient, folder, resume=True)
    assert errors(folder) == measured, "it does not train on"
    longer = changed(patient, epochs=31)
    train(tiny_spec, longer, folder, resume=True)
    assert len(errors(folder)) > len(measured)
    assert json.loads((folder / "metrics.json").read_text())["split"] == "test"


def test_patience_needs_a_validation_split(config, changed, tiny_spec, tmp_path):
    with pytest.raises(UsageError, match="--patience needs a validation split"):
        train(tiny_spec, changed(config, patience=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()
