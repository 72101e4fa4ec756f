"""A tiny network, its data and its runs."""

import dataclasses
import os
import subprocess
import sys
import threading

import pytest

from delugeserve.training.config import RunConfig
from delugeserve.training.recipes import find_recipe
from delugeserve.training.run import train
from delugeserve.zoo import CIFAR10, Architecture, ModelSpec

# The command line, with one more model.
SCRIPT = """
from delugeserve import cli, zoo
tiny = zoo.Architecture("tiny", "cifar", (4, 6), (2, 2))
zoo.MODELS = {"tiny": zoo.ModelSpec("tiny", tiny, zoo.CIFAR10)}
cli.main()
"""
HANG_S = 800  # a guard against tests that hang, not a limit that a busy machine can meet


@pytest.fixture(scope="session")
def tiny_spec():
    """A network that trains in seconds."""
    return ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6), (2, 2)), CIFAR10)


@pytest.fixture(scope="module")
def config(tmp_path_factory, write_tiny_cifar):
    """Three epochs on the tiny data set, in fp32."""
    recipe = dataclasses.replace(
        find_recipe("cifar-quick"), epochs=3, batch_size=20, learning_rate=0.05
    )
    data = write_tiny_cifar(tmp_path_factory.mktemp("data") / "tiny-cifar")
    return RunConfig("tiny", recipe, seed=0, precision="fp32", data=str(data))


@pytest.fixture(scope="module")
def whole(config, tiny_spec, tmp_path_factory):
    """The folder of a run that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(tiny_spec, config, folder)
    return folder


@pytest.fixture(scope="session")
def changed():
    """Change settings of a run, its recipe's included."""

    def changed(config, **changes):
        recipe = {k: v for k, v in changes.items() if hasattr(config.recipe, k)}
        rest = {k: v for k, v in changes.items() if k not in recipe}
        recipe = dataclasses.replace(config.recipe, **recipe)
        return dataclasses.replace(config, recipe=recipe, **rest)

    return changed


@pytest.fixture
def start(config, tmp_path):
    """Start ``train`` in a process of its own; returns it when it has printed a line.

    The line is the first that starts with a text; lines before it are in ``process.seen``.
    """
    started = []

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
            text=True,
            env=os.environ | {"COLUMNS": "80"},
        )
        guard = threading.Timer(HANG_S, process.kill)
        guard.start()
        started.append((process, guard))
        process.seen = []
        for printed in process.stderr:
            process.seen.append(printed)
            if printed.startswith(line):
                break
        return process

    yield start
    for process, guard in started:
        guard.cancel()
        process.kill()
        process.wait()
        process.stderr.close()
