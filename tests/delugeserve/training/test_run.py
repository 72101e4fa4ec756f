"""Training on a tiny learnable data set: it learns, resumes exactly, and says what is wrong."""

import csv
import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from delugeserve import zoo
from delugeserve.errors import CheckpointError, DatasetError, TrainingError, UsageError
from delugeserve.networks.checkpoint import load_checkpoint
from delugeserve.training.config import RunConfig, resolve_precision
from delugeserve.training.recipes import find_recipe
from delugeserve.training.run import train
from delugeserve.zoo import CIFAR10, ModelSpec

TINY = ModelSpec("tiny", "cifar", (4, 6), (2, 2), CIFAR10)
# A process that trains into a folder, and one forked from it as those are that decode images.
TRAINING = """
import os, sys, time
from pathlib import Path
from delugeserve.training.folder import claimed
with claimed(Path(sys.argv[1])):
    forked = os.fork()
    if forked:
        print(forked, flush=True)
    time.sleep(120)
    os._exit(0)
"""
# The command line, with one more model.
SCRIPT = """
from delugeserve import cli, zoo
zoo.MODELS = {"tiny": zoo.ModelSpec("tiny", "cifar", (4, 6), (2, 2), zoo.CIFAR10)}
cli.main()
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory, write_tiny_cifar):
    recipe = dataclasses.replace(
        find_recipe("cifar-quick"), epochs=3, batch_size=20, learning_rate=0.05
    )
    data = write_tiny_cifar(tmp_path_factory.mktemp("data") / "tiny-cifar")
    return RunConfig("tiny", recipe, seed=0, precision="fp32", data=str(data))


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The folder of a run that nothing has interrupted, and what it said."""
    folder, lines = tmp_path_factory.mktemp("whole") / "run", []
    train(TINY, config, folder, say=lines.append)
    return folder, lines


def log_of(folder):
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


def assert_same_weights(one, other):
    one, other = (load_checkpoint(folder / "tiny.safetensors").state for folder in (one, other))
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def asked(config, **changes):
    recipe = {k: v for k, v in changes.items() if hasattr(config.recipe, k)}
    rest = {k: v for k, v in changes.items() if k not in recipe}
    return dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, **recipe), **rest)


def test_it_learns_and_records(whole):
    folder, lines = whole
    checkpoint = load_checkpoint(folder / "tiny.safetensors", TINY)
    assert checkpoint.metrics["top1_error"] < 60, "the classes are plain colours"
    assert checkpoint.recipe["epochs"] == 3
    assert checkpoint.recipe["learning_rate"] == 0.05
    assert len(checkpoint.data["train_fingerprint"]) == 64
    assert checkpoint.environment["processes"] == "1"
    assert "command" not in checkpoint.environment, "it names paths of this machine"
    rows = log_of(folder)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert sum("epoch" in line for line in lines) == 3


def test_what_a_run_leaves_behind(whole):
    folder, _ = whole
    assert {path.name for path in folder.iterdir()} == {
        "run.json", "environment.json", "log.csv", "last.ckpt", "metrics.json", "curves.png",
        "tiny.safetensors",
    }  # fmt: skip
    environment = json.loads((folder / "environment.json").read_text())
    assert "pytest" in environment["command"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == load_checkpoint(folder / "tiny.safetensors").metrics
    assert metrics["top1_error"] == float(log_of(folder)[-1]["val_error"])


def test_another_seed_gives_other_weights(config, tmp_path):
    short = asked(config, epochs=1, limit=40)
    weights = [
        load_checkpoint(train(TINY, asked(short, seed=seed), tmp_path / str(run))[0])
        for run, seed in enumerate((0, 0, 1))
    ]
    one, again, other = (checkpoint.state["head.linear.weight"] for checkpoint in weights)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.fixture
def start(config, tmp_path):
    """Start the command in a process of its own; it has said the line when this returns."""

    def start(line, *options):
        recipe = config.recipe
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", SCRIPT, "train", "--model", "tiny", "--data", config.data),
                *("--output", tmp_path / "run", "--epochs", str(recipe.epochs)),
                *("--batch-size", str(recipe.batch_size), "--learning-rate", "0.05"),
                *("--precision", "fp32", *options),
            ],
            stderr=subprocess.PIPE,
        )
        for said in process.stderr:
            if said.startswith(line):
                break
        return process

    return start


def test_a_killed_run_resumes_to_the_same_bits(config, whole, tmp_path, start):
    process = start(b"epoch   2")  # the state after the first epoch is there
    process.kill()
    process.communicate()
    assert not (tmp_path / "run" / "tiny.safetensors").exists()

    train(TINY, config, tmp_path / "run", resume=True)
    assert_same_weights(whole[0], tmp_path / "run")
    assert [row["epoch"] for row in log_of(tmp_path / "run")] == ["1", "2", "3"]


def test_a_run_that_is_terminated_says_so(tmp_path, start):
    process = start(b"epoch   2", "--epochs", "100")
    process.terminate()
    said = " ".join(process.communicate()[1].decode().split())
    assert process.returncode == 143
    epoch = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["epoch"] + 1
    assert f"error: SIGTERM has ended the run. The state after epoch {epoch} is whole, in" in said
    assert said.endswith("'train' with --resume.")


def test_a_run_stopped_after_its_last_epoch_still_gives_the_moving_average(config, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    (tmp_path / "run" / "tiny.safetensors").unlink()
    train(TINY, config, tmp_path / "run", resume=True)
    assert_same_weights(whole[0], tmp_path / "run")


@pytest.fixture
def fill_the_disk():
    """Allow small files only: the log fits, the state does not."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_last_good_state(config, whole, tmp_path, fill_the_disk):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(TrainingError, match=r"File too large.*The state after epoch 1 .*--resume"):
        train(
            TINY, config, tmp_path / "run",
            say=lambda line: fill_the_disk() if line.startswith("epoch   2") else None,
        )  # fmt: skip
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert state["epoch"] == 0
    assert sorted(path.name for path in tmp_path.glob("run/.*")) == []
    train(TINY, config, tmp_path / "run", resume=True)
    assert_same_weights(whole[0], tmp_path / "run")


def test_what_cannot_be_written_in_the_first_epoch(config, tmp_path, fill_the_disk):
    (tmp_path / "run" / "log.csv").mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"directory.*No state was saved before\."):
        train(TINY, config, tmp_path / "run")
    with pytest.raises(TrainingError, match=r"File too large.*No state was saved before\."):
        train(
            TINY, config, tmp_path / "other",
            say=lambda line: fill_the_disk() if line.startswith("epoch") else None,
        )  # fmt: skip


def test_not_everything_that_fails_is_a_failed_save(config, tmp_path):
    def say(line):
        if line.startswith("epoch"):
            raise OSError("the terminal has gone")

    with pytest.raises(OSError, match="the terminal has gone"):
        train(TINY, config, tmp_path / "run", say=say)


def test_accumulated_batches_make_the_same_steps(config, whole, tmp_path):
    train(TINY, asked(config, accumulate=4), tmp_path / "run")
    one, four = (
        torch.load(folder / "last.ckpt", weights_only=True)
        for folder in (whole[0], tmp_path / "run")
    )
    assert one["global_step"] == four["global_step"] == 30
    at_once, in_four = log_of(whole[0]), log_of(tmp_path / "run")
    for column in ("epoch", "learning_rate"):
        assert [row[column] for row in at_once] == [row[column] for row in in_four]
    # Its BatchNorms see five images at a time, which is another training, but no worse a one.
    assert float(in_four[-1]["train_loss"]) < float(at_once[0]["train_loss"])


def test_deterministic_algorithms(config, tmp_path):
    try:
        train(TINY, asked(config, deterministic=True, epochs=1, limit=20), tmp_path / "run")
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


# What cannot be


def test_an_existing_run_is_not_overwritten(config, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="already holds a run"):
        train(TINY, config, tmp_path)


def test_a_checkpoint_that_no_run_explains_is_not_overwritten(config, tmp_path):
    (tmp_path / "tiny.safetensors").touch()
    with pytest.raises(UsageError, match=r"tiny\.safetensors exists, and no run\.json"):
        train(TINY, config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.safetensors"]


def test_one_process_at_a_time_trains_into_a_folder(config, tmp_path):
    folder = tmp_path / "new" / "run"
    other = subprocess.Popen(
        [sys.executable, "-c", TRAINING, folder], stdout=subprocess.PIPE, text=True
    )
    forked = int(other.stdout.readline())
    try:
        for resume in (False, True):
            with pytest.raises(UsageError, match=r"run is being trained into by another process\."):
                train(TINY, config, folder, resume=resume)
        assert [path.name for path in folder.iterdir()] == [".lock"]
        other.kill()
        other.wait()
        # Neither what a killed run has left nor the one that decoded for it stands in the way.
        with pytest.raises(DatasetError):
            train(TINY, asked(config, data="nowhere/at-all"), folder)
        assert list(folder.iterdir()) == []
    finally:
        os.kill(forked, signal.SIGKILL)
        other.kill()
        other.communicate()


def test_nothing_to_resume(config, tmp_path):
    with pytest.raises(UsageError, match="holds no run to resume"):
        train(TINY, config, tmp_path / "new" / "run", resume=True)
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_must_be_asked_the_same(config, whole):
    other = asked(config, seed=5, learning_rate=0.1)
    with pytest.raises(UsageError, match=r"with seed 0, not 5; learning_rate 0\.05, not 0\.1"):
        train(TINY, other, whole[0], resume=True)


def test_the_last_files_can_be_written_later(config, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    for name in ("tiny.safetensors", "curves.png"):
        (folder / name).unlink()
        (folder / name / "in the way").mkdir(parents=True)
        with pytest.raises(TrainingError, match=rf"{name}.* All epochs are done.*--resume"):
            train(TINY, config, folder, resume=True)
        shutil.rmtree(folder / name)
    train(TINY, config, folder, resume=True)
    assert_same_weights(whole[0], folder)


def test_a_resumed_run_remembers_where_it_began(config, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
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
    shutil.copytree(whole[0], folder)
    (folder / "tiny.safetensors").unlink()
    asked_before = json.loads((folder / "run.json").read_text())
    del asked_before["recipe"]["cutout"], asked_before["initial_checkpoint"]
    (folder / "run.json").write_text(json.dumps(asked_before))
    state = torch.load(folder / "last.ckpt", weights_only=True)
    del state["recipe"]["cutout"]
    torch.save(state, folder / "last.ckpt")
    train(TINY, config, folder, resume=True)
    assert_same_weights(whole[0], folder)


def test_a_run_whose_files_are_damaged(config, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    (tmp_path / "run" / "log.csv").write_text("epoch\nx\n")
    with pytest.raises(UsageError, match=r"log\.csv cannot be read"):
        train(TINY, config, tmp_path / "run", resume=True)
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(UsageError, match=r"run\.json cannot be read"):
        train(TINY, config, tmp_path / "run", resume=True)


def test_a_state_that_is_damaged_or_another_run_s(config, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    state = tmp_path / "run" / "last.ckpt"
    content = state.read_bytes()
    for damaged in (content[:5000], b"", b"no state"):
        state.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="not a whole state"):
            train(TINY, config, tmp_path / "run", resume=True)

    for spec, changes, what in (
        (dataclasses.replace(TINY, widths=(5, 6)), {}, "network"),
        (TINY, {"momentum": 0.8}, "recipe: epochs 1, not 3; momentum 0.8, not 0.9"),
    ):
        other = tmp_path / what[:7]
        train(spec, asked(config, epochs=1, limit=20, **changes), other)
        state.write_bytes((other / "last.ckpt").read_bytes())
        with pytest.raises(CheckpointError, match=rf"another {what}\."):
            train(TINY, config, tmp_path / "run", resume=True)


def test_training_images_are_no_test_images(config, write_tiny_cifar, tmp_path):
    data = write_tiny_cifar(tmp_path / "data")
    shutil.copy(data / "train.parquet", data / "test.parquet")
    with pytest.raises(DatasetError, match="the same images"):
        train(TINY, asked(config, data=str(data)), tmp_path / "run")
    # A file serves as either split, and with a limit the two are not the same.
    (data / "train.parquet").rename(data / "mine.parquet")
    with pytest.raises(DatasetError, match="is a single file"):
        train(TINY, asked(config, data=str(data / "mine.parquet"), limit=20), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_the_run(config, tmp_path):
    with pytest.raises(TrainingError, match=r"at step [1-9] \(epoch 1\).*at [\de+]+\. No state"):
        train(TINY, asked(config, learning_rate=1e30), tmp_path / "first")
    # Where weight decay makes the weights grow, it takes some epochs of one step each.
    late = asked(
        config, limit=20, epochs=20, schedule="step", learning_rate=1.0, weight_decay=6.0,
        momentum=0.0, ema_decay=0.0,
    )  # fmt: skip
    with pytest.raises(TrainingError, match="The test loss is inf at step") as caught:
        train(TINY, late, tmp_path / "late")
    state = torch.load(tmp_path / "late" / "last.ckpt", weights_only=True)
    assert state["epoch"] > 2
    good = f"The state after epoch {state['epoch'] + 1} is whole, in {tmp_path / 'late'}"
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
    with pytest.raises(UsageError, match="has no cross-layer sums"):
        train(dataclasses.replace(TINY, baseline="1x1"), chosen, tmp_path)
    with pytest.raises(UsageError, match="by itself"):
        train(TINY, dataclasses.replace(chosen, compile=True), tmp_path)
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("option", ["compile", "fuse_sums"])
def test_without_a_compiler_nothing_is_begun(config, option, tmp_path, monkeypatch):
    for variable in ("CC", "CXX"):
        monkeypatch.setenv(variable, "no-such-compiler")
    with pytest.raises(UsageError, match="no no-such-compiler"):
        train(TINY, dataclasses.replace(config, **{option: True}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_precision_follows_the_processor(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for native, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(
            "delugeserve.system.hardware.has_native_bf16", lambda native=native: native
        )
        assert resolve_precision("auto") == expected
    assert resolve_precision("fp32") == "fp32"
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        resolve_precision("fp16")


def test_a_gpu_that_emulates_bf16_trains_in_fp32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for native in (True, False):
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation=True, native=native: native or including_emulation,
        )
        assert resolve_precision("auto") == ("bf16" if native else "fp32")


# The command


def test_the_recipe_is_said_first_and_the_result_is_data(run, config, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "MODELS", {"tiny": TINY})
    status, out, err = run(
        "train", "--model", "tiny", "--data", config.data, "--output", tmp_path / "run", "--json",
        "--epochs", "1", "--batch-size", "50", "--schedule", "step", "--milestones", "0.5,0.75",
    )  # fmt: skip
    assert status == 0, err
    result = json.loads(out)
    assert load_checkpoint(tmp_path / "run" / "tiny.safetensors").metrics == {
        key: value for key, value in result.items() if key != "checkpoint"
    }
    lines = [" ".join(line.split()) for line in err.splitlines()]
    said = lines.index("recipe cifar-quick"), lines.index("200 training and 100 test images")
    assert lines[said[0] + 1 : said[1]] == [
        "epochs 1 (not 30)",
        "batch size 50 (not 128)",
        "learning rate 0.15",
        "schedule step (not one-cycle)",
        "milestones 0.5, 0.75 (not -)",
        "warmup 0.15",
        "momentum 0.9",
        "weight decay 0.0005",
        "label smoothing 0.1",
        "ema decay 0.999",
        "crop padding 4",
        "cutout 0",
    ]


def test_a_flag_that_does_nothing_is_refused(run, config, tmp_path):
    command = ("train", "--model", "delugenet38", "--data", config.data, "--output")
    for flags, problem in (
        (("--milestones", "0.5"), "--milestones does nothing with the schedule one-cycle."),
        (("--schedule", "step"), "the learning rate never falls."),
    ):
        status, out, err = run(*command, tmp_path / "run", *flags)
        assert (status, out) == (2, "")
        assert problem in " ".join(err.split())
    assert not (tmp_path / "run").exists()


def test_a_folder_without_images(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for model in ("delugenet38", "delugenet92"):
        status, out, err = run(
            "train", "--model", model, "--data", tmp_path / "empty", "--output", tmp_path / "run"
        )
        assert (status, out) == (2, "")
        assert str(tmp_path / "empty") in err
    assert not (tmp_path / "run").exists(), "nothing half-written"


def test_it_starts_from_a_checkpoint(config, tmp_path):
    first, _ = train(TINY, config, tmp_path / "first")
    still = dataclasses.replace(
        config,
        recipe=dataclasses.replace(config.recipe, epochs=1, learning_rate=1e-9, ema_decay=0.0),
        initial_checkpoint=str(first),
    )
    second, _ = train(TINY, still, tmp_path / "second")
    before, after = load_checkpoint(first), load_checkpoint(second)
    for name, tensor in before.state.items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(after.state[name], tensor)
    assert after.recipe["initial"] == {"recipe": before.recipe, "metrics": before.metrics}


def test_a_checkpoint_of_another_model_is_no_start(config, tmp_path):
    other = dataclasses.replace(TINY, name="other", widths=(4, 8))
    path, _ = train(other, dataclasses.replace(config, model="other"), tmp_path / "other")
    with pytest.raises(CheckpointError, match="holds 'other'"):
        train(TINY, dataclasses.replace(config, initial_checkpoint=str(path)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
