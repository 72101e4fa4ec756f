"""Ctrl-C and SIGTERM end a run alike, with a command that can be pasted to go on."""

import os
import shlex
import signal
import subprocess
import sys

import pytest
import torch

from delugeserve.errors import StoppedError
from delugeserve.training.distributed import World
from delugeserve.training.run import train
from delugeserve.training.stopping import StopOnSignal, stoppable

pytestmark = pytest.mark.slow
SIGNALS = [signal.SIGINT, signal.SIGTERM]


def command_of(said):
    """The arguments of the command at the end of what was printed."""
    program, *arguments = shlex.split(said.rpartition("resume the run: ")[2])
    assert program == "delugeserve"
    return arguments


@pytest.mark.parametrize("number", SIGNALS)
def test_the_command_says_how_to_resume(tmp_path, start, number):
    process = start("epoch 2/", "--epochs", "100000")
    process.send_signal(number)
    said = process.stderr.read()
    assert process.wait() == 128 + number
    assert "Traceback" not in said
    epoch = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["epoch"] + 1
    assert f"Epoch {epoch} is saved in {tmp_path / 'run' / 'last.ckpt'}." in said
    assert command_of(said) == ["train", "--resume", str(tmp_path / "run")]


def test_the_printed_command_goes_on(tmp_path, start, config, whole):
    """What is printed is what is needed: the folder's name has a space and a quote."""
    folder = tmp_path / "it's a run"
    process = start("epoch 1/", "--output", folder)
    process.send_signal(signal.SIGINT)
    arguments = command_of(process.stderr.read())
    assert process.wait() == 130
    script = process.args[2]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True)
    assert done.returncode == 0, done.stderr
    one, other = (
        torch.load(run / "last.ckpt", weights_only=True)["state_dict"] for run in (whole, folder)
    )
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize(
    ("number", "stage", "saved"),
    [
        (signal.SIGINT, "read images", "It had not started yet"),
        (signal.SIGTERM, "read images", "It had not started yet"),
        (signal.SIGINT, "epoch 1/3", "No epoch is saved"),
        (signal.SIGINT, "test epoch 2/3", "Epoch 1 is saved"),
        (signal.SIGTERM, "test epoch 2/3", "Epoch 1 is saved"),
        (signal.SIGTERM, "test the trained network", "Epoch 3 is saved"),
    ],
)
def test_a_signal_at_any_stage(config, tiny_spec, tmp_path, at_stage, number, stage, saved):
    handlers = [signal.getsignal(one) for one in SIGNALS]
    progress = at_stage(stage, lambda: os.kill(os.getpid(), number))
    with pytest.raises(StoppedError) as caught:
        train(tiny_spec, config, tmp_path / "run", progress=progress)
    assert caught.value.number == number
    assert caught.value.exit_code == 128 + number
    assert caught.value.resumable == (stage != "read images")
    assert saved in caught.value.problem
    assert [signal.getsignal(one) for one in SIGNALS] == handlers
    assert (tmp_path / "run").exists() == caught.value.resumable


def test_a_second_ctrl_c_interrupts_the_step(tmp_path):
    stop = StopOnSignal(World())
    stop._stepping = True
    stop.receive(signal.SIGINT)  # noted: the step is finished first
    with pytest.raises(KeyboardInterrupt):
        stop.receive(signal.SIGINT)


def test_other_errors_pass(tmp_path):
    with pytest.raises(SystemExit), stoppable(tmp_path, World()):
        sys.exit(3)
