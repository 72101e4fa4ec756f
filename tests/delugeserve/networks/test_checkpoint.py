import dataclasses
import json
import pickle

import pytest
import safetensors.torch
import torch

from delugeserve.errors import CheckpointError
from delugeserve.networks.build import build_network
from delugeserve.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from delugeserve.zoo import CIFAR10, CIFAR100, Architecture, ModelSpec, find_model

TINY = ModelSpec("tiny", Architecture("tiny", "cifar", (2, 3), (1, 2)), CIFAR10)


@pytest.fixture
def saved(tmp_path):
    network = build_network(TINY, seed=0)
    checkpoint = Checkpoint(
        TINY,
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


def test_another_model_is_refused(saved):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved, find_model("delugenet38"))
    error = caught.value
    assert (error.path, error.expected, error.found) == (saved, "delugenet38", "tiny")
    assert "Leave --model out" in error.remedy


def test_a_network_of_ones_own_is_of_its_architecture(saved):
    other = dataclasses.replace(TINY, name="other", task=CIFAR100)
    assert load_checkpoint(saved, other).spec == TINY


def test_a_registered_model_is_of_its_classes_too(saved, monkeypatch):
    monkeypatch.setattr("delugeserve.networks.checkpoint.MODELS", {"tiny": TINY})
    with pytest.raises(CheckpointError, match=r"10 classes.* 100") as caught:
        load_checkpoint(saved, dataclasses.replace(TINY, name="other", task=CIFAR100))
    assert "--model tiny" in caught.value.remedy


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "none.safetensors")
    assert caught.value.path == tmp_path / "none.safetensors"


@pytest.mark.parametrize("keep", [0, 5, 100, -10])
def test_a_truncated_file_is_refused(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved)
    assert caught.value.path == saved


def test_a_pickle_is_refused_and_not_run(tmp_path):
    ran = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (ran.touch, ())

    path = tmp_path / "evil.safetensors"
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not ran.exists()


def rewrite(path, tensors=None, **header):
    """Write a checkpoint again with other tensors, or other values in its header."""
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata() | {key: json.dumps(value) for key, value in header.items()}
    safetensors.torch.save_file(tensors or safetensors.torch.load_file(path), path, metadata)


def test_a_model_that_cannot_be_built_is_refused(saved):
    rewrite(saved, model={**dataclasses.asdict(TINY), "stem": "of another release"})
    with pytest.raises(CheckpointError, match="does not describe a model"):
        load_checkpoint(saved)


def test_tensors_of_another_shape_are_refused(saved):
    rewrite(saved, safetensors.torch.load_file(saved) | {"head.linear.bias": torch.zeros(11)})
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved)
    assert (caught.value.path, caught.value.expected) == (saved, "tiny")


def test_a_failed_save_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(load_checkpoint(saved), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_convolutions_in_float16_are_read_in_float32(saved, tmp_path):
    before = load_checkpoint(saved)
    # What float16 cannot hold, where training may well put it.
    before.state["head.norm.running_var"].copy_(torch.tensor([1e5, 1e-9, 1, 1, 1, 1]))
    small = tmp_path / "small.safetensors"
    save_checkpoint(before, small, half=True)
    stored = safetensors.torch.load_file(small)
    loaded = load_checkpoint(small, TINY)
    assert loaded.metrics == {"top1_error": 12.5}
    for name, tensor in before.state.items():
        if ".conv" in name:
            assert stored[name].dtype == torch.float16, name
            assert loaded.state[name].dtype == torch.float32, name
            assert torch.equal(loaded.state[name], tensor.half().float()), name
        else:
            assert torch.equal(stored[name], tensor), name
            assert torch.equal(loaded.state[name], tensor), name
    loaded.build()


def test_a_weight_too_large_for_float16(saved, tmp_path):
    checkpoint = load_checkpoint(saved)
    checkpoint.state["stem.conv.weight"][0, 0, 0, 0] = 7e4
    with pytest.raises(CheckpointError) as caught:
        save_checkpoint(checkpoint, tmp_path / "small.safetensors", half=True)
    assert caught.value.found == 7e4
    assert not (tmp_path / "small.safetensors").exists()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int8])
def test_tensors_of_another_type_are_refused(saved, dtype):
    tensors = safetensors.torch.load_file(saved)
    rewrite(saved, tensors | {"head.linear.bias": tensors["head.linear.bias"].to(dtype)})
    with pytest.raises(CheckpointError, match=r"head\.linear\.bias") as caught:
        load_checkpoint(saved)
    assert (caught.value.expected, caught.value.found) == ("float32", str(dtype)[6:])
