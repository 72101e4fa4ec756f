"""What a ``.safetensors`` file holds, from its header alone: no tensor is loaded."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delugeserve.errors import CheckpointError, require

# Names and sizes of the format's types: https://github.com/huggingface/safetensors
_DTYPES = {
    "F64": ("float64", 8), "F32": ("float32", 4), "F16": ("float16", 2), "BF16": ("bfloat16", 2),
    "I64": ("int64", 8), "I32": ("int32", 4), "I16": ("int16", 2), "I8": ("int8", 1),
    "U8": ("uint8", 1), "BOOL": ("bool", 1), "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
}  # fmt: skip

# What BatchNorm keeps of its inputs; training steps do not change these by gradients.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")

_MAPPINGS = ("recipe", "data", "metrics", "environment")


@dataclass(frozen=True)
class CheckpointFile:
    """A safetensors file.

    Attributes:
        path: the file.
        bytes: its size.
        ours: 'delugeserve train' wrote it, and ``model`` to ``environment`` are what it wrote.
        model: the network's numbers, as :class:`~delugeserve.zoo.ModelSpec` has them.
        class_names: one for each logit.
        recipe: how it was trained.
        data: what it was trained on, with fingerprints.
        metrics: what was measured on the test split.
        environment: versions and machine of the training run.
        other: strings of the header that are none of these.
        parameters: trained values.
        buffers: BatchNorm's statistics.
        tensors: number of tensors by type.
        tensor_bytes: their size by type.
    """

    path: Path
    bytes: int
    ours: bool
    model: Mapping[str, Any]
    class_names: tuple[str, ...]
    recipe: Mapping[str, Any]
    data: Mapping[str, Any]
    metrics: Mapping[str, Any]
    environment: Mapping[str, Any]
    other: Mapping[str, str]
    parameters: int
    buffers: int
    tensors: Mapping[str, int]
    tensor_bytes: Mapping[str, int]


def read_checkpoint(path: Path) -> CheckpointFile:
    """Read the header of a safetensors file.

    Raises:
        CheckpointError: it is not one, or it is cut off.
        MissingExtraError: safetensors is not installed.
    """
    safetensors = require("safetensors", "train")
    counts, sizes = Counter[str](), Counter[str]()
    parameters = buffers = 0
    try:
        with safetensors.safe_open(path, framework="np") as file:
            texts = dict(file.metadata() or {})
            for name in file.keys():  # noqa: SIM118 - the file is no mapping
                header = file.get_slice(name)
                elements = math.prod(header.get_shape())
                dtype, size = _DTYPES.get(header.get_dtype(), (header.get_dtype(), 0))
                counts[dtype] += 1
                sizes[dtype] += elements * size
                if name.endswith(_BUFFERS):
                    buffers += elements
                else:
                    parameters += elements
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}).",
            "Take an undamaged copy, or train it again.",
        ) from error
    said = _parse(texts)
    return CheckpointFile(
        path=path,
        bytes=path.stat().st_size,
        ours=bool(said),
        model=said.get("model", {}),
        class_names=tuple(said.get("class_names", ())),
        **{key: said.get(key, {}) for key in _MAPPINGS},
        other={} if said else texts,
        parameters=parameters,
        buffers=buffers,
        tensors=dict(counts),
        tensor_bytes=dict(sizes),
    )


def _parse(texts: Mapping[str, str]) -> dict[str, Any]:
    """Parse the header; empty if it is not a checkpoint of delugeserve."""
    try:
        values = {key: json.loads(text) for key, text in texts.items()}
    except json.JSONDecodeError:
        return {}
    wanted = {"model": dict, "class_names": list, **dict.fromkeys(_MAPPINGS, dict)}
    whole = all(isinstance(values.get(key), kind) for key, kind in wanted.items())
    return values if whole and {"name", "dataset"} <= values["model"].keys() else {}
