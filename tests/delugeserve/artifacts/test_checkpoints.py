"""The header of checkpoints, as ours and others write it, whole and damaged."""

import dataclasses
import json
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from delugeserve.artifacts.checkpoints import (
    CheckpointHeader,
    read_checkpoint,
    read_header,
    shipped_weights,
)
from delugeserve.errors import CheckpointError
from delugeserve.networks.flops import count
from delugeserve.zoo import CIFAR10, MODELS, Architecture, ModelSpec, find_model

SPEC = find_model("delugenet38")
TINY = ModelSpec("tiny", Architecture("tiny", "cifar", (2, 3), (1, 2)), CIFAR10)
HEADER = CheckpointHeader(TINY, metrics={"top1_error": 12.5})


def write(path, metadata):
    save_file({"weight": np.zeros((3, 5), np.float16)}, path, metadata)
    return path


def test_a_header_read_back_is_the_one_written(tmp_path):
    path = write(tmp_path / "tiny.safetensors", HEADER.to_metadata())
    assert read_header(path) == HEADER
    assert read_checkpoint(path).model == TINY


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_every_model_of_the_registry_survives(tmp_path, spec):
    header = CheckpointHeader(spec)
    path = write(tmp_path / "x.safetensors", header.to_metadata())
    assert read_header(path).spec == dataclasses.replace(spec, published=None)


def test_the_shipped_checkpoint():
    path = shipped_weights(SPEC)
    found = read_checkpoint(path)
    assert found.ours
    assert (found.bytes, found.parameters) == (path.stat().st_size, count(SPEC).params)
    assert found.model.task == CIFAR10
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert sum(found.tensor_bytes.values()) == found.bytes - 8 - header


def test_a_model_without_shipped_weights_says_how_to_train_it():
    with pytest.raises(CheckpointError) as caught:
        shipped_weights(find_model("delugenet146"))
    assert caught.value.expected == "delugenet146"
    assert "train --model delugenet146" in caught.value.remedy


def test_a_safetensors_file_of_others(tmp_path):
    path = write(tmp_path / "other.safetensors", {"format": "pt"})
    found = read_checkpoint(path)
    assert not found.ours
    assert (found.tensors, found.tensor_bytes) == ({"float16": 1}, {"float16": 30})
    assert found.other == {"format": "pt"}
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert caught.value.path == path


def test_a_checkpoint_of_another_format_is_refused(tmp_path):
    path = write(tmp_path / "new.safetensors", HEADER.to_metadata() | {"format": "99"})
    for read in (read_header, read_checkpoint):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert (caught.value.path, caught.value.expected, caught.value.found) == (path, 2, 99)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", {"name": "x"}),
        ("model", 3),
        ("model", {**dataclasses.asdict(TINY), "task": {"mean": [], "std": []}}),
        ("metrics", "good"),
    ],
)
def test_a_header_that_describes_no_model_is_refused(tmp_path, key, value):
    path = write(tmp_path / "x.safetensors", HEADER.to_metadata() | {key: json.dumps(value)})
    for read in (read_header, read_checkpoint):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert caught.value.path == path


def as_format_1(names=CIFAR10.class_names) -> dict[str, str]:
    """The header of HEADER as the first releases wrote it."""
    model = {
        "name": "tiny",
        "stem": "cifar",
        "widths": [2, 3],
        "layers": [1, 2],
        "dataset": {
            "name": "cifar10",
            "title": "CIFAR-10",
            "num_classes": 10,
            "image_size": 32,
            "resize_size": 32,
            "mean": CIFAR10.mean,
            "std": CIFAR10.std,
        },
        "published": None,
        "baseline": None,
    }
    values = {"format": 1, "model": model, "class_names": names}
    return HEADER.to_metadata() | {key: json.dumps(value) for key, value in values.items()}


def test_format_1_is_read(tmp_path):
    assert read_header(write(tmp_path / "x.safetensors", as_format_1())) == HEADER


def test_shipped_weights_are_of_the_registered_models():
    for spec in MODELS.values():
        if spec.weights:
            header = read_header(spec.weights)
            assert header.spec == dataclasses.replace(spec, published=None)


def test_another_number_of_class_names_is_refused_in_format_1(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        read_header(write(tmp_path / "x.safetensors", as_format_1(["one"])))
    assert (caught.value.expected, caught.value.found) == (10, 1)


def test_names_that_were_not_utf8_can_be_printed(tmp_path):
    names = ("caf\udce9", *CIFAR10.class_names[1:])
    header = CheckpointHeader(TINY.with_classes(names), data={"source": "\udcff"})
    found = read_header(write(tmp_path / "x.safetensors", header.to_metadata()))
    assert found.class_names[0].encode() == b"caf?"
    assert found.data == {"source": "?"}


@pytest.mark.parametrize("length", [0, 4, 8, 1000, 30_000, -1])
def test_a_file_that_is_cut_off_is_refused(tmp_path, length):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(SPEC.weights.read_bytes()[:length])
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert caught.value.path == path


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [2.5], "data_offsets": [0, 0]}}',
        b'{"__metadata__": []}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_header_of_another_shape_is_refused(tmp_path, header):
    path = tmp_path / "odd.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


@given(st.binary(max_size=200))
def test_garbage_is_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "garbage.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


def test_headers_are_read_without_safetensors():
    script = f"""
import sys
sys.modules["torch"] = sys.modules["safetensors"] = sys.modules["numpy"] = None
from pathlib import Path
from delugeserve.artifacts.checkpoints import read_checkpoint
assert read_checkpoint(Path({str(SPEC.weights)!r})).ours
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
