"""Two processes that train together, on CPUs: as one would, and to the same bits after a loss."""

import csv
import json
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from delugeserve import zoo
from delugeserve.checkpoint import load_checkpoint
from delugeserve.data.datasets import load_images
from delugeserve.evaluation import network_classifier
from delugeserve.zoo import CIFAR10, ModelSpec

TINY = ModelSpec("tiny", "cifar", (4, 6), (2, 2), CIFAR10)

# The command line with one more model, once for each list of arguments. The process of the rank in
# DIES kills itself as soon as the run has saved a state.
SCRIPT = """
import json, os, signal, sys, threading, time
from pathlib import Path
from delugeserve import cli, zoo

def die(state):
    while not state.exists():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)

zoo.MODELS = {"tiny": zoo.ModelSpec("tiny", "cifar", (4, 6), (2, 2), zoo.CIFAR10)}
for arguments in json.loads(sys.argv[1]):
    if os.environ["DIES"] == os.environ["RANK"]:
        state = Path(arguments[arguments.index("--output") + 1]) / "last.ckpt"
        threading.Thread(target=die, args=[state], daemon=True).start()
    sys.argv = ["delugeserve", *arguments]
    try:
        cli.main()
    except SystemExit as end:
        if end.code:
            raise
"""
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
OPTIONS = (
    *("--precision", "fp32", "--limit", "60", "--epochs", "4", "--batch-size", "20"),
    *("--learning-rate", "0.02", "--warmup", "0.5"),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_tiny_cifar):
    return write_tiny_cifar(tmp_path_factory.mktemp("data") / "tiny-cifar", test=101)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def start(runs, data):
    """Train by two processes, one run after the other; gives status and standard error."""
    script = runs / "train.py"
    script.write_text(SCRIPT)

    def start(*asked, dies="nobody"):
        base = ("train", "--model", "tiny", "--data", str(data))
        commands = [[*base, "--output", str(runs / name), *more] for name, *more in asked]
        done = subprocess.run(
            [sys.executable, *TORCHRUN, script, json.dumps(commands)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "DIES": dies},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stderr

    return start


@pytest.fixture(scope="module")
def said(start):
    """What is said of a run with BatchNorms over all, one with BatchNorms for each, and a mistake.

    In one go, since it is the start that takes long.
    """
    status, said = start(
        ("together", *OPTIONS, "--sync-batchnorm"),
        ("apart", *OPTIONS),
        ("odd", "--batch-size", "21"),
    )
    assert status != 0, "of the mistake"
    return said


def weights(folder):
    return load_checkpoint(folder / "tiny.safetensors").state


def log_of(folder):
    with (folder / "log.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_two_processes_train_as_one(said, runs, data, run, monkeypatch):
    monkeypatch.setattr(zoo, "MODELS", {"tiny": TINY})
    alone = runs / "alone"
    status, _, err = run("train", "--model", "tiny", "--data", data, "--output", alone, *OPTIONS)
    assert status == 0, err
    for column, tolerance in (("learning_rate", 0), ("train_loss", 2e-3), ("val_loss", 2e-3)):
        one, two = ([row[column] for row in log_of(runs / name)] for name in ("alone", "together"))
        assert two == pytest.approx(one, abs=tolerance), column
    one, two, apart = (weights(runs / name) for name in ("alone", "together", "apart"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=5e-3, msg=name)
    # BatchNorms over ten images each make another network.
    assert max((apart[name] - tensor).abs().max() for name, tensor in one.items()) > 0.05


def test_what_is_logged_is_what_is_saved(said, runs, data):
    """Without synchronised BatchNorms the processes' networks differ; one is tested and saved."""
    images = load_images(data, "test", CIFAR10)
    network = load_checkpoint(runs / "apart" / "tiny.safetensors").build()
    logits = torch.from_numpy(network_classifier(network, CIFAR10)(images.images))
    labels = torch.from_numpy(images.labels)
    last = log_of(runs / "apart")[-1]
    assert F.cross_entropy(logits, labels).item() == pytest.approx(last["val_loss"], abs=2e-4)
    wrong = (logits.argmax(dim=1) != labels).float().mean().item()
    assert 100 * wrong == pytest.approx(last["val_error"], abs=0.01)


def test_one_process_speaks(said):
    assert said.count("60 training and 101 test images") == 2
    assert said.count("epoch   1/4") == 2


def test_a_mistake_is_said_once(said, runs):
    assert said.count("error: ") == 1
    assert "A batch of 21 images cannot be divided equally: 2 processes." in said
    assert "--batch-size that 2 divides, such as 20" in said
    assert not (runs / "odd").exists()


def test_a_run_that_lost_a_process_resumes_to_the_same_bits(said, start, runs):
    status, err = start(("killed", *OPTIONS), dies="1")
    assert status != 0
    assert "error: Process 0 lost the connection to another of the 2." in err
    assert "Signal 9 (SIGKILL)" in err
    assert not (runs / "killed" / "tiny.safetensors").exists()
    status, err = start(("killed", *OPTIONS, "--resume"))
    assert status == 0, err
    resumed = weights(runs / "killed")
    for name, tensor in weights(runs / "apart").items():
        assert torch.equal(tensor, resumed[name]), name
    assert [row["epoch"] for row in log_of(runs / "killed")] == [1, 2, 3, 4]
