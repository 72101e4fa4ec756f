"""Runs that start from a checkpoint, which is read once."""

import dataclasses
import json
import shutil

import pytest
import torch

from delugeserve.errors import CheckpointError, StoppedError
from delugeserve.networks.checkpoint import load_checkpoint
from delugeserve.system.files import sha256
from delugeserve.training.initial import read_initial
from delugeserve.training.run import train
from delugeserve.zoo import Architecture

pytestmark = pytest.mark.slow


@pytest.fixture
def short(config, changed, whole, tmp_path):
    """Two epochs from a copy of the whole run's checkpoint, given as a file."""
    first = tmp_path / "first.safetensors"
    shutil.copy(whole / "tiny.safetensors", first)
    return changed(config, epochs=2, limit=40, initial_checkpoint=str(first))


def test_a_run_folder_stands_for_its_checkpoint(tiny_spec, whole, tmp_path):
    initial, weights = read_initial(str(whole), tiny_spec, tmp_path, seed=0, resume=False)
    assert initial.sha256 == sha256(whole / "tiny.safetensors")
    assert weights is not None


def interrupt():
    raise KeyboardInterrupt


def test_it_starts_from_a_checkpoint(short, changed, tiny_spec, whole, tmp_path):
    still = changed(short, epochs=1, learning_rate=1e-9, ema_decay=0.0)
    second, _ = train(tiny_spec, still, tmp_path / "second")
    before, after = load_checkpoint(whole / "tiny.safetensors"), load_checkpoint(second)
    for name, tensor in before.state.items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(after.state[name], tensor)
    assert after.recipe["initial"] == {"recipe": before.recipe, "metrics": before.metrics}
    record = json.loads((tmp_path / "second" / "initial.json").read_text())
    assert record["sha256"] == sha256(tmp_path / "first.safetensors")


@pytest.mark.parametrize("replaced", [True, False])
def test_a_resumed_run_does_not_read_it_again(
    short, changed, tiny_spec, whole, tmp_path, at_stage, replaced
):
    first, folder = tmp_path / "first.safetensors", tmp_path / "run"
    expected = load_checkpoint(first)
    with pytest.raises(StoppedError):
        train(tiny_spec, short, folder, progress=at_stage("epoch 2", interrupt))
    if replaced:
        other, _ = train(
            tiny_spec, changed(short, epochs=1, seed=9, initial_checkpoint=None), tmp_path / "other"
        )
        shutil.copy(other, first)
    else:
        first.unlink()
    path, _ = train(tiny_spec, short, folder, resume=True)
    assert load_checkpoint(path).recipe["initial"] == {
        "recipe": expected.recipe,
        "metrics": expected.metrics,
    }


def test_a_run_without_a_state_needs_the_same_file(short, tiny_spec, tmp_path, at_stage):
    first, folder = tmp_path / "first.safetensors", tmp_path / "run"
    with pytest.raises(StoppedError):
        train(tiny_spec, short, folder, progress=at_stage("epoch 1", interrupt))
    content = first.read_bytes()
    first.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=f"{first} has changed"):
        train(tiny_spec, short, folder, resume=True)
    first.write_bytes(content)
    train(tiny_spec, short, folder, resume=True)


def test_a_checkpoint_of_another_model_is_refused(config, tiny_spec, tmp_path):
    other = dataclasses.replace(
        tiny_spec, name="other", architecture=Architecture("other", "cifar", (4, 8), (2, 2))
    )
    path, _ = train(other, dataclasses.replace(config, model="other"), tmp_path / "other")
    initial = dataclasses.replace(config, initial_checkpoint=str(path))
    with pytest.raises(CheckpointError, match="other"):
        train(tiny_spec, initial, tmp_path / "run")
    assert not (tmp_path / "run").exists()
