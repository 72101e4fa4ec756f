import dataclasses
import json
import pickle

import pytest
import safetensors.torch
import torch

from delugeserve.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from delugeserve.errors import CheckpointError
from delugeserve.networks.build import build_network
from delugeserve.zoo import CIFAR10, CIFAR100, ModelSpec, find_model

TINY = ModelSpec("tiny", "cifar", (2, 3), (1, 2), CIFAR10)


@pytest.fixture
def saved(tmp_path):
    network = build_network(TINY, seed=0)
    checkpoint = Checkpoint(
        TINY,
        CIFAR10.class_names,
        network.state_dict(),
        recipe={"epochs": 3},
        data={"train_fingerprint": "abc"},
        metrics={"top1_error": 12.5},
        environment={"torch": "2"},
    )
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(checkpoint, path)
    return path


def test_a_round_trip_keeps_everything(saved):
    loaded = load_checkpoint(saved, TINY)
    original = build_network(TINY, seed=0).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.build()(images), original(images))
    assert loaded.spec == TINY
    assert loaded.class_names == CIFAR10.class_names
    assert loaded.recipe == {"epochs": 3}
    assert loaded.metrics == {"top1_error": 12.5}
    assert [path.name for path in saved.parent.iterdir()] == ["tiny.safetensors"]
    assert saved.stat().st_mode & 0o777 == 0o644


def test_another_model_is_refused_by_name(saved):
    with pytest.raises(CheckpointError, match="holds 'tiny' with 10 classes, not 'delugenet38'"):
        load_checkpoint(saved, find_model("delugenet38"))


def test_another_number_of_classes_is_refused(saved):
    other = dataclasses.replace(TINY, dataset=CIFAR100)
    with pytest.raises(CheckpointError, match="with 10 classes"):
        load_checkpoint(saved, other)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        load_checkpoint(tmp_path / "none.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 100, -10])
def test_a_truncated_file_is_refused(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        load_checkpoint(saved)


def test_a_pickle_is_refused_and_not_run(tmp_path):
    ran = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (ran.touch, ())

    path = tmp_path / "evil.safetensors"
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        load_checkpoint(path)
    assert not ran.exists()


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(2)}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match="checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", {"name": "x"}, "does not say which model"),
        ("model", 3, "does not say which model"),
        ("class_names", ["one"], "do not fit"),
        ("format", 99, "format"),
    ],
)
def test_wrong_metadata_is_refused(saved, key, value, message):
    with safetensors.safe_open(saved, "pt") as file:
        metadata = file.metadata()
    metadata[key] = json.dumps(value)
    safetensors.torch.save_file(safetensors.torch.load_file(saved), saved, metadata)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)


def test_tensors_of_another_shape_are_refused(saved):
    with safetensors.safe_open(saved, "pt") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load_file(saved)
    tensors["head.linear.bias"] = torch.zeros(11)
    safetensors.torch.save_file(tensors, saved, metadata)
    with pytest.raises(CheckpointError, match="do not fit the model"):
        load_checkpoint(saved)


def test_a_failed_save_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(load_checkpoint(saved), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]
