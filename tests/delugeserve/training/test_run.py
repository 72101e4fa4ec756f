"""Training on a tiny learnable data set: it learns, resumes exactly, and says what is wrong."""

import csv
import dataclasses
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from delugeserve import zoo
from delugeserve.data.datasets import load_images
from delugeserve.errors import (
    CheckpointError,
    DatasetError,
    Failure,
    ResumeError,
    StoppedError,
    TrainingError,
    UsageError,
)
from delugeserve.networks import native_library
from delugeserve.networks.checkpoint import load_checkpoint
from delugeserve.networks.classifier import network_classifier
from delugeserve.networks.fused import best_kernels
from delugeserve.training.records import read_run
from delugeserve.training.request import request_resume
from delugeserve.training.run import train
from delugeserve.zoo import CIFAR10, Architecture, ModelSpec

TINY = ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6), (2, 2)), CIFAR10)


def of_architecture(**changes) -> ModelSpec:
    architecture = dataclasses.replace(TINY.architecture, **changes)
    return dataclasses.replace(TINY, architecture=architecture)


EPOCH_2 = "epoch 2/3"
# A process that trains into a folder, and one forked from it as those are that decode images.
TRAINING = """
import os, signal, sys
from pathlib import Path
from delugeserve.training.folder import run_lock
with run_lock(Path(sys.argv[1])):
    forked = os.fork()
    if forked:
        print(forked, flush=True)
    signal.pause()
"""


def log_of(folder):
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


def assert_same_weights(one, other):
    one, other = (load_checkpoint(folder / "tiny.safetensors").state for folder in (one, other))
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_it_learns_and_records(whole):
    checkpoint = load_checkpoint(whole / "tiny.safetensors", TINY)
    assert checkpoint.metrics["top1_error"] < 60, "the classes are plain colours"
    assert checkpoint.recipe["epochs"] == 3
    assert checkpoint.recipe["learning_rate"] == 0.05
    assert len(checkpoint.data["train_fingerprint"]) == 64
    assert checkpoint.environment["processes"] == "1"
    assert "command" not in checkpoint.environment, "it names paths of this machine"
    rows = log_of(whole)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])


def test_one_test_error_per_epoch_measured_in_fp32(config, changed, tmp_path):
    """Training in bf16, the log has the error and loss of the network as it is saved."""
    path, evaluation = train(TINY, changed(config, precision="bf16", epochs=1), tmp_path / "run")
    (row,) = log_of(tmp_path / "run")
    assert float(row["val_error"]) == evaluation.top1_error
    images = load_images(config.data, "test", CIFAR10)
    logits = network_classifier(load_checkpoint(path).build(), CIFAR10)(images.images)
    loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(images.labels))
    assert float(row["val_loss"]) == pytest.approx(loss.item(), abs=6e-5), "to the last digit"


def test_the_log_has_the_rate_that_an_epoch_was_trained_with(config, changed, tmp_path):
    steps = changed(
        config, schedule="step", milestones=(1 / 3, 2 / 3), learning_rate=0.1, limit=40, warmup=0.0
    )
    train(TINY, steps, tmp_path / "run")
    rates = [float(row["learning_rate"]) for row in log_of(tmp_path / "run")]
    assert rates == pytest.approx([0.1, 0.01, 0.001])


def test_epochs_and_batches_are_reported(config, changed, tmp_path, at_stage):
    progress = at_stage("nothing", None)
    train(TINY, changed(config, epochs=1, limit=60), tmp_path / "run", progress=progress)
    stages = dict(progress.stages)
    assert stages["epoch 1/1, batch"] == 3
    assert stages["test epoch 1/1, batch"] == 1
    assert [note for note in progress.notes if note.startswith("loss ")] != []
    assert "test the trained network" in stages


def test_what_a_run_leaves_behind(whole):
    assert {path.name for path in whole.iterdir()} == {
        "run.json", "environment.json", "log.csv", "last.ckpt", "metrics.json", "curves.png",
        "data.json",
        "tiny.safetensors",
    }  # fmt: skip
    environment = json.loads((whole / "environment.json").read_text())
    assert environment["command"] == shlex.join(sys.orig_argv)
    metrics = json.loads((whole / "metrics.json").read_text())
    assert metrics == load_checkpoint(whole / "tiny.safetensors").metrics
    assert metrics["top1_error"] == float(log_of(whole)[-1]["val_error"])


def test_another_seed_gives_other_weights(config, changed, tmp_path):
    short = changed(config, epochs=1, limit=40)
    weights = [
        load_checkpoint(train(TINY, changed(short, seed=seed), tmp_path / str(run))[0])
        for run, seed in enumerate((0, 0, 1))
    ]
    one, again, other = (checkpoint.state["head.linear.weight"] for checkpoint in weights)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_killed_run_resumes_to_the_same_bits(config, whole, tmp_path, start):
    process = start("epoch 2/")  # the state after the first epoch is there
    process.kill()
    process.communicate()
    assert not (tmp_path / "run" / "tiny.safetensors").exists()

    train(TINY, config, tmp_path / "run", resume=True)
    assert_same_weights(whole, tmp_path / "run")
    assert [row["epoch"] for row in log_of(tmp_path / "run")] == ["1", "2", "3"]


def test_a_run_stopped_after_its_last_epoch_still_gives_the_moving_average(config, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "tiny.safetensors").unlink()
    train(TINY, config, tmp_path / "run", resume=True)
    assert_same_weights(whole, tmp_path / "run")


@pytest.fixture
def fill_the_disk():
    """Allow small files only: the log fits, the state does not."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_last_good_state(config, whole, tmp_path, fill_the_disk, at_stage):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(TrainingError, match=r"File too large.*Epoch 1 is saved") as caught:
        train(TINY, config, tmp_path / "run", progress=at_stage(EPOCH_2, fill_the_disk))
    assert caught.value.resumable
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert state["epoch"] == 0
    assert sorted(path.name for path in tmp_path.glob("run/.*")) == []
    train(TINY, config, tmp_path / "run", resume=True)
    assert_same_weights(whole, tmp_path / "run")


def test_what_cannot_be_written_in_the_first_epoch(config, tmp_path, fill_the_disk, at_stage):
    (tmp_path / "run" / "log.csv").mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"directory.*No epoch is saved"):
        train(TINY, config, tmp_path / "run")
    with pytest.raises(TrainingError, match=r"File too large.*No epoch is saved"):
        train(TINY, config, tmp_path / "other", progress=at_stage("epoch 1", fill_the_disk))


def test_not_everything_that_fails_is_a_failed_save(config, tmp_path, at_stage):
    def fail():
        raise OSError("the terminal has gone")

    with pytest.raises(OSError, match="the terminal has gone"):
        train(TINY, config, tmp_path / "run", progress=at_stage(EPOCH_2, fail))


def test_accumulated_batches_make_the_same_steps(config, changed, whole, tmp_path):
    train(TINY, changed(config, accumulate=4), tmp_path / "run")
    one, four = (
        torch.load(folder / "last.ckpt", weights_only=True) for folder in (whole, tmp_path / "run")
    )
    assert one["global_step"] == four["global_step"] == 30
    at_once, in_four = log_of(whole), log_of(tmp_path / "run")
    for column in ("epoch", "learning_rate"):
        assert [row[column] for row in at_once] == [row[column] for row in in_four]
    # Its BatchNorms see five images at a time, which is another training, but no worse a one.
    assert float(in_four[-1]["train_loss"]) < float(at_once[0]["train_loss"])


def test_deterministic_algorithms(config, changed, tmp_path):
    try:
        train(TINY, changed(config, deterministic=True, epochs=1, limit=20), tmp_path / "run")
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


# What cannot be


def test_an_existing_run_is_not_overwritten(config, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="--resume"):
        train(TINY, config, tmp_path)


def test_a_checkpoint_that_no_run_explains_is_not_overwritten(config, tmp_path):
    (tmp_path / "tiny.safetensors").touch()
    with pytest.raises(UsageError, match=r"tiny\.safetensors exists"):
        train(TINY, config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.safetensors"]


def test_one_process_at_a_time_trains_into_a_folder(config, changed, tmp_path):
    folder = tmp_path / "new" / "run"
    other = subprocess.Popen(
        [sys.executable, "-c", TRAINING, folder], stdout=subprocess.PIPE, text=True
    )
    forked = int(other.stdout.readline())
    try:
        for resume in (False, True):
            with pytest.raises(UsageError, match=r"Another process .*run\."):
                train(TINY, config, folder, resume=resume)
        assert [path.name for path in folder.iterdir()] == [".lock"]
        other.kill()
        other.wait()
        # Neither what a killed run has left nor the one that decoded for it stands in the way.
        with pytest.raises(DatasetError):
            train(TINY, changed(config, data="nowhere/at-all"), folder)
        assert list(folder.iterdir()) == []
    finally:
        os.kill(forked, signal.SIGKILL)
        other.kill()
        other.communicate()


def test_nothing_to_resume(config, tmp_path):
    with pytest.raises(UsageError, match="no run to resume"):
        train(TINY, config, tmp_path / "new" / "run", resume=True)
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_must_have_the_same_settings(config, changed, whole):
    other = changed(config, seed=5, learning_rate=0.1, limit=20, compile=True)
    with pytest.raises(ResumeError) as caught:
        train(TINY, other, whole, resume=True)
    assert caught.value.path == whole
    assert caught.value.changed == {
        "seed": (0, 5), "learning_rate": (0.05, 0.1), "limit": (None, 20), "compile": (False, True),
    }  # fmt: skip
    assert "--seed was 0, now 5; " in caught.value.problem
    assert caught.value.remedy.startswith(
        "Use --seed 0 --learning-rate 0.05 and leave out --limit, --compile, or "
    )


def test_the_last_files_can_be_written_later(config, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for name in ("tiny.safetensors", "curves.png"):
        (folder / name).unlink()
        (folder / name / "in the way").mkdir(parents=True)
        with pytest.raises(TrainingError, match=rf"{name}.* All epochs are saved"):
            train(TINY, config, folder, resume=True)
        shutil.rmtree(folder / name)
    train(TINY, config, folder, resume=True)
    assert_same_weights(whole, folder)


def test_a_resumed_run_remembers_where_it_began(config, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    file = folder / "environment.json"
    now = json.loads(file.read_text())
    file.write_text(json.dumps({**now, "machine": "another", "command": "the first"}))
    for _ in range(2):
        (folder / "tiny.safetensors").unlink()
        train(TINY, config, folder, resume=True)
    then = {**now, "machine": f"another, then {now['machine']}", "command": "the first"}
    assert json.loads(file.read_text()) == then
    del then["command"]
    assert load_checkpoint(folder / "tiny.safetensors").environment == then


def test_a_run_of_before_there_was_an_option_goes_on(config, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "tiny.safetensors").unlink()
    asked_before = json.loads((folder / "run.json").read_text())
    del asked_before["recipe"]["cutout"], asked_before["initial_checkpoint"]
    (folder / "run.json").write_text(json.dumps(asked_before))
    state = torch.load(folder / "last.ckpt", weights_only=True)
    del state["recipe"]["cutout"]
    torch.save(state, folder / "last.ckpt")
    train(TINY, config, folder, resume=True)
    assert_same_weights(whole, folder)


def test_a_run_whose_files_are_damaged(config, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "log.csv").write_text("epoch\nx\n")
    with pytest.raises(UsageError, match=r"log\.csv cannot be read"):
        train(TINY, config, tmp_path / "run", resume=True)
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(UsageError, match=r"run\.json cannot be read"):
        train(TINY, config, tmp_path / "run", resume=True)


def test_a_state_that_is_damaged_or_another_run_s(config, changed, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    state = tmp_path / "run" / "last.ckpt"
    content = state.read_bytes()
    for damaged in (content[:5000], b"", b"no state"):
        state.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged"):
            train(TINY, config, tmp_path / "run", resume=True)

    for spec, changes, what in (
        (of_architecture(widths=(5, 6)), {}, "network"),
        (TINY, {"momentum": 0.8}, "recipe"),
    ):
        other = tmp_path / what[:7]
        train(spec, changed(config, epochs=1, limit=20, **changes), other)
        state.write_bytes((other / "last.ckpt").read_bytes())
        with pytest.raises(CheckpointError, match=rf"another {what}\b"):
            train(TINY, config, tmp_path / "run", resume=True)


def test_training_images_are_no_test_images(config, changed, write_tiny_cifar, tmp_path):
    data = write_tiny_cifar(tmp_path / "data")
    shutil.copy(data / "train.parquet", data / "test.parquet")
    with pytest.raises(DatasetError, match="the same images"):
        train(TINY, changed(config, data=str(data)), tmp_path / "run")
    # A file serves as either split, and with a limit the two are not the same.
    (data / "train.parquet").rename(data / "mine.parquet")
    with pytest.raises(DatasetError, match="is a single file"):
        train(TINY, changed(config, data=str(data / "mine.parquet"), limit=20), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_the_run(config, changed, tmp_path):
    with pytest.raises(TrainingError, match=r"at step [1-9] \(epoch 1\).* of [\de+]+\. No epoch"):
        train(TINY, changed(config, learning_rate=1e30), tmp_path / "first")
    # Where weight decay makes the weights grow, it takes some epochs of one step each.
    late = changed(
        config, limit=20, epochs=20, schedule="step", learning_rate=1.0, weight_decay=6.0,
        momentum=0.0, ema_decay=0.0,
    )  # fmt: skip
    with pytest.raises(TrainingError, match="The test loss is inf at step") as caught:
        train(TINY, late, tmp_path / "late")
    state = torch.load(tmp_path / "late" / "last.ckpt", weights_only=True)
    assert state["epoch"] > 2
    good = f"Epoch {state['epoch'] + 1} is saved in {tmp_path / 'late'}"
    assert good in caught.value.problem
    assert all(tensor.isfinite().all() for tensor in state["state_dict"].values())


def test_checkpointed_sums_give_the_same_weights(config, tmp_path):
    short = dataclasses.replace(config, limit=60)
    plain, _ = train(TINY, short, tmp_path / "plain")
    frugal, _ = train(TINY, dataclasses.replace(short, checkpoint_sums=True), tmp_path / "frugal")
    found = load_checkpoint(frugal).state
    for name, tensor in load_checkpoint(plain).state.items():
        assert torch.equal(tensor, found[name]), name


def test_fused_sums_learn(config, tmp_path):
    _, evaluation = train(TINY, dataclasses.replace(config, fuse_sums=True), tmp_path / "run")
    assert evaluation.top1_error < 60, "the classes are plain colours"


@pytest.mark.parametrize("option", ["fuse_sums", "checkpoint_sums"])
def test_options_of_sums_where_there_is_nothing_to_choose(config, option, tmp_path):
    chosen = dataclasses.replace(config, **{option: True})
    if option == "checkpoint_sums":
        with pytest.raises(UsageError, match="has no cross-layer sums"):
            train(of_architecture(baseline="1x1"), chosen, tmp_path)
    with pytest.raises(UsageError, match="--compile"):
        train(TINY, dataclasses.replace(chosen, compile=True), tmp_path)
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("option", ["compile", "fuse_sums"])
def test_without_a_compiler_nothing_is_begun(config, option, tmp_path, monkeypatch):
    for variable in ("CC", "CXX"):
        monkeypatch.setenv(variable, "no-such-compiler")
    with pytest.raises(UsageError, match="no no-such-compiler"):
        train(TINY, dataclasses.replace(config, **{option: True}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(best_kernels() != "native", reason="the kernels are not compiled here")
def test_with_a_compiler_that_fails_nothing_is_begun(config, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setattr(native_library, "library", native_library.library.__wrapped__)
    with pytest.raises(Failure):
        train(TINY, dataclasses.replace(config, fuse_sums=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_for_more_epochs(config, changed, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "MODELS", {"tiny": TINY})
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    request = request_resume(folder, {}, {"epochs": 6})
    train(TINY, request.config, folder, resume=True)
    rows = log_of(folder)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert rows[:3] == log_of(whole), "what is trained stays"
    # From there on the rates are those of a run of six epochs.
    train(TINY, changed(config, epochs=6), tmp_path / "six")
    rates = [[row["learning_rate"] for row in log] for log in (rows, log_of(tmp_path / "six"))]
    assert rates[0][3:] == rates[1][3:]
    assert float(rates[0][3]) > float(rates[0][2]), "the rate rises again"
    recipe = load_checkpoint(folder / "tiny.safetensors").recipe
    assert (recipe["epochs"], recipe["extended"]) == (6, [3])
    assert json.loads((folder / "run.json").read_text())["extended"] == [3]


def test_a_run_that_goes_on_is_unfinished(whole, tmp_path, at_stage, monkeypatch):
    monkeypatch.setattr(zoo, "MODELS", {"tiny": TINY})
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    more = request_resume(folder, {}, {"epochs": 5}).config
    with pytest.raises(StoppedError):
        train(TINY, more, folder, resume=True, progress=at_stage("epoch 5/", interrupt))
    assert read_run(folder).status == "unfinished"
    request = request_resume(folder, {}, {})
    assert (request.config.recipe.epochs, request.config.extended) == (5, (3,))
    train(TINY, request.config, folder, resume=True)
    assert load_checkpoint(folder / "tiny.safetensors").recipe["extended"] == [3]
    assert read_run(folder).status == "finished"


def interrupt():
    raise KeyboardInterrupt
