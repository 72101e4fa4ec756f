"""Two processes that train together, on CPUs: as one would, and to the same bits after a loss."""

import csv
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from delugeserve import zoo
from delugeserve.data.datasets import load_images
from delugeserve.errors import UsageError
from delugeserve.networks.checkpoint import load_checkpoint
from delugeserve.networks.classifier import network_classifier
from delugeserve.training import distributed
from delugeserve.training.distributed import World, first_reports
from delugeserve.zoo import CIFAR10, Architecture, ModelSpec

TINY = ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6), (2, 2)), CIFAR10)

# The command line with one more model. The process of the rank in DIES sends itself SIGNAL as soon
# as the run has saved a state.
SCRIPT = """
import os, signal, sys, threading, time
from pathlib import Path
from delugeserve import cli, zoo

def die(state):
    while not state.exists():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.Signals[os.environ["SIGNAL"]])

tiny = zoo.Architecture("tiny", "cifar", (4, 6), (2, 2))
zoo.MODELS = {"tiny": zoo.ModelSpec("tiny", tiny, zoo.CIFAR10)}
if os.environ["DIES"] == os.environ["RANK"]:
    state = Path(sys.argv[sys.argv.index("--output") + 1]) / "last.ckpt"
    threading.Thread(target=die, args=[state], daemon=True).start()
cli.main()
"""
MISTAKE = """
import sys
from torch import nn
from delugeserve.errors import UsageError
from delugeserve.training.distributed import connected, current_world, first_alone, share_buffers

def fail():
    raise UsageError(f"a mistake of process {world.rank}", "")

world = current_world()
with connected(world):
    norm = nn.BatchNorm2d(1)
    norm.running_mean += 5 + world.rank
    share_buffers(norm)
    print(f"the mean of process {world.rank} is {norm.running_mean.item()}", file=sys.stderr)
    try:
        first_alone(world, fail)
    except UsageError as error:
        print(error.problem, file=sys.stderr)
        sys.exit(error.exit_code)
"""
HANG_S = 800  # a guard against tests that hang, not a limit that a busy machine can meet
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
    """Train in two processes; gives the status and what they say."""
    script = runs / "train.py"
    script.write_text(SCRIPT)

    def start(name, *options, dies="nobody", of="SIGKILL"):
        new = ("--model", "tiny", "--data", data, "--output", runs / name, *OPTIONS)
        command = (script, "train", *(() if "--resume" in options else new))
        done = subprocess.run(
            [sys.executable, *TORCHRUN, *command, *options],
            env=os.environ | {"OMP_NUM_THREADS": "1", "DIES": dies, "SIGNAL": of},
            capture_output=True,
            text=True,
            timeout=HANG_S,
        )
        return done.returncode, done.stderr

    return start


@pytest.fixture(scope="module")
def apart(start, runs):
    """The folder of a run with BatchNorms for each process."""
    status, said = start("apart")
    assert status == 0, said
    return runs / "apart"


def weights(folder):
    return load_checkpoint(folder / "tiny.safetensors").state


def log_of(folder):
    with (folder / "log.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_two_processes_train_as_one(start, apart, runs, data, run, monkeypatch):
    monkeypatch.setattr(zoo, "MODELS", {"tiny": TINY})
    alone = ("train", "--model", "tiny", "--data", data, "--output", runs / "alone")
    status, _, said = run(*alone, *OPTIONS)
    assert status == 0, said
    status, said = start("together", "--sync-batchnorm")
    assert status == 0, said
    assert said.count("train: 60 images") == said.count("epoch 1/4  ") == 1
    for column, tolerance in (("learning_rate", 0), ("train_loss", 2e-3), ("val_loss", 2e-3)):
        one, two = ([row[column] for row in log_of(runs / name)] for name in ("alone", "together"))
        assert two == pytest.approx(one, abs=tolerance), column
    one, two = weights(runs / "alone"), weights(runs / "together")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=5e-3, msg=name)
    # BatchNorms over ten images each make another network.
    other = weights(apart)
    assert max((other[name] - tensor).abs().max() for name, tensor in one.items()) > 0.05


def test_what_is_logged_of_unequal_shares_is_true_of_what_is_saved(apart, data):
    images = load_images(data, "test", CIFAR10)
    network = load_checkpoint(apart / "tiny.safetensors").build()
    logits = torch.from_numpy(network_classifier(network, CIFAR10)(images.images))
    labels = torch.from_numpy(images.labels)
    last = log_of(apart)[-1]
    assert F.cross_entropy(logits, labels).item() == pytest.approx(last["val_loss"], abs=2e-4)
    wrong = (logits.argmax(dim=1) != labels).float().mean().item()
    assert 100 * wrong == pytest.approx(last["val_error"], abs=0.01)


def test_a_run_that_lost_a_process_resumes_to_the_same_bits(start, apart, runs):
    status, said = start("killed", dies="1")
    assert status != 0
    assert "error: Process 0 lost the connection to another of the 2 processes." in said
    assert "resume the run: torchrun --nproc-per-node 2 -m delugeserve train --resume " in said
    assert "Signal 9 (SIGKILL)" in said
    assert not (runs / "killed" / "tiny.safetensors").exists()
    status, said = start("killed", "--resume", runs / "killed")
    assert status == 0, said
    resumed = weights(runs / "killed")
    for name, tensor in weights(apart).items():
        assert torch.equal(tensor, resumed[name]), name
    assert [row["epoch"] for row in log_of(runs / "killed")] == [1, 2, 3, 4]


@pytest.mark.parametrize(("rank", "of", "code"), [("0", "SIGINT", 130), ("1", "SIGTERM", 143)])
def test_a_signal_to_one_process_stops_all_after_the_same_step(start, runs, rank, of, code):
    name = f"stopped-{rank}"
    status, said = start(name, "--epochs", "500", dies=rank, of=of)
    assert status != 0
    assert f"exitcode  : {code}" in said
    assert said.count("error: ") == said.count("error: Training was stopped by ") == 1
    assert "resume the run: torchrun --nproc-per-node 2 -m delugeserve train --resume " in said
    assert not (runs / name / "tiny.safetensors").exists()


def test_an_error_of_all_processes_is_reported_by_the_first(monkeypatch):
    slept = []
    monkeypatch.setattr(distributed.time, "sleep", slept.append)
    for rank in (0, 1):
        with pytest.raises(UsageError), first_reports(World(rank, 2, rank, 2)):
            raise UsageError("a mistake.", "")
    assert len(slept) == 1, "the second leaves the first time to print"


def test_statistics_are_shared_and_a_mistake_is_said_once(runs):
    script = runs / "mistake.py"
    script.write_text(MISTAKE)
    done = subprocess.run([sys.executable, *TORCHRUN, script], capture_output=True, text=True)
    assert "the mean of process 1 is 5.0" in done.stderr
    assert done.stderr.count("a mistake of process 0") == 1
    assert "a mistake of process 1" not in done.stderr
    # torchrun tells how the processes ended, or that it has ended them.
    assert "exitcode  : 2" in done.stderr
