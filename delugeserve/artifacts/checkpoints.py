"""The header of a ``.safetensors`` file: what a checkpoint holds, without loading a tensor.

This is the only place that parses the header. It needs neither torch nor safetensors;
:mod:`delugeserve.networks.checkpoint` reads and writes the tensors.

A checkpoint of 'delugeserve train' keeps these in the header, each as a JSON string: ``format``
(version of this layout), ``model`` (a :class:`~delugeserve.zoo.ModelSpec`: architecture and task,
with the class names), ``recipe``, ``data`` (source and fingerprints), ``metrics`` and
``environment``. Format 1 is read too: its ``model`` holds the numbers of both without the class
names, which are beside it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delugeserve.artifacts.typed_json import from_json
from delugeserve.errors import CheckpointError
from delugeserve.zoo import MODELS, ModelSpec

FORMAT = 2
_READABLE = (1, FORMAT)

# Names and sizes in bits of the format's types: https://github.com/huggingface/safetensors
_DTYPES = {
    "F64": ("float64", 64), "F32": ("float32", 32), "F16": ("float16", 16),
    "BF16": ("bfloat16", 16), "I64": ("int64", 64), "I32": ("int32", 32), "I16": ("int16", 16),
    "I8": ("int8", 8), "U64": ("uint64", 64), "U32": ("uint32", 32), "U16": ("uint16", 16),
    "U8": ("uint8", 8), "BOOL": ("bool", 8), "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E5M2": ("float8_e5m2", 8),
}  # fmt: skip
_LENGTH_BYTES = 8
_LARGEST_HEADER = 100_000_000  # the format's own limit, in bytes

# BatchNorm's running statistics, which are not trained by gradients.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")

_MAPPINGS = ("recipe", "data", "metrics", "environment")
_TRAIN = "Give a .safetensors file that 'delugeserve train' wrote."


@dataclass(frozen=True)
class CheckpointHeader:
    """What a checkpoint says about itself.

    Attributes:
        spec: the network's architecture and task, without the paper's figures.
        recipe: how it was trained.
        data: what it was trained on.
        metrics: what was measured on the test split.
        environment: versions and machine of the training run.
    """

    spec: ModelSpec
    recipe: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    data: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    metrics: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    environment: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per logit."""
        return self.spec.task.class_names

    def to_metadata(self) -> dict[str, str]:
        """Return the header's strings; the paper's figures are left out."""
        values = {
            "format": FORMAT,
            "model": dataclasses.asdict(dataclasses.replace(self.spec, published=None)),
            "recipe": self.recipe,
            "data": self.data,
            "metrics": self.metrics,
            "environment": self.environment,
        }
        return {key: json.dumps(value) for key, value in values.items()}


@dataclass(frozen=True)
class CheckpointFile:
    """A safetensors file.

    Attributes:
        path: the file.
        bytes: its size.
        ours: whether 'delugeserve train' wrote it; if not, ``model`` is None, and ``recipe`` to
            ``environment`` are empty.
        model: the network's architecture and task.
        recipe: how it was trained.
        data: what it was trained on, with fingerprints.
        metrics: what was measured on the test split.
        environment: versions and machine of the training run.
        other: the header's strings, if the file is not ours.
        parameters: number of trained values.
        buffers: number of values of BatchNorm's statistics.
        tensors: number of tensors by type.
        tensor_bytes: size of the tensors by type.
    """

    path: Path
    bytes: int
    ours: bool
    model: ModelSpec | None
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
    """Read the header of a safetensors file, whoever wrote it.

    Raises:
        CheckpointError: it is not a complete safetensors file, or is a checkpoint of another
            format than this release reads.
    """
    metadata, tensors = _read(path)
    header = _parse(path, metadata) if _is_ours(metadata) else None
    counts, sizes = Counter[str](), Counter[str]()
    parameters = buffers = 0
    for name, tensor in tensors.items():
        elements = math.prod(tensor["shape"])
        dtype, bits = _DTYPES.get(tensor["dtype"], (str(tensor["dtype"]), 0))
        counts[dtype] += 1
        sizes[dtype] += elements * bits // 8
        if name.endswith(_BUFFERS):
            buffers += elements
        else:
            parameters += elements
    return CheckpointFile(
        path=path,
        bytes=path.stat().st_size,
        ours=header is not None,
        model=header.spec if header else None,
        recipe=header.recipe if header else {},
        data=header.data if header else {},
        metrics=header.metrics if header else {},
        environment=header.environment if header else {},
        other={} if header else metadata,
        parameters=parameters,
        buffers=buffers,
        tensors=dict(counts),
        tensor_bytes=dict(sizes),
    )


def read_header(path: Path) -> CheckpointHeader:
    """Read the header of a checkpoint that 'delugeserve train' wrote.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it is not such a checkpoint.
    """
    return _parse(path, _read(path)[0])


def shipped_weights(spec: ModelSpec) -> Path:
    """Return the trained checkpoint of a model that ships with the package.

    Raises:
        CheckpointError: there is none.
    """
    if spec.weights is None:
        raise CheckpointError(
            f"No trained weights of '{spec.name}' ship with the package.",
            "Give a --checkpoint, which is written by: delugeserve train --model "
            f"{spec.name} --data DATA --output RUN",
            expected=spec.name,
        )
    return spec.weights


def _read(path: Path) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Return the header's strings, and the tensors' type, shape and place by name."""
    if not path.is_file():
        raise CheckpointError(
            f"There is no checkpoint {path}.", "Give the path of a .safetensors file.", path
        )
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if not 0 < length <= min(size - _LENGTH_BYTES, _LARGEST_HEADER):
                raise ValueError("its header is cut off")
            header = json.loads(file.read(length))
        metadata = {key: str(text) for key, text in header.pop("__metadata__", {}).items()}
        ends = [tensor["data_offsets"][1] for tensor in header.values()]
        if max(ends, default=0) != size - _LENGTH_BYTES - length:
            raise ValueError("its tensors are cut off")
        if any(type(n) is not int for tensor in header.values() for n in tensor["shape"]):
            raise ValueError("its header is damaged")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = error if type(error) in (OSError, ValueError) else "its header is damaged"
        raise CheckpointError(
            f"{path} is not a complete safetensors file: {reason}.",
            "Copy it again from where it came, or train the network again.",
            path,
        ) from error
    return metadata, header


def _is_ours(metadata: Mapping[str, str]) -> bool:
    """Whether the header has the layout of ours, of whatever version."""
    return metadata.get("format", "").isdecimal() and "model" in metadata


def _parse(path: Path, metadata: Mapping[str, str]) -> CheckpointHeader:
    try:
        values = {key: _printable(json.loads(text)) for key, text in metadata.items()}
        found = values.get("format")
        if found not in _READABLE:
            raise CheckpointError(
                f"{path} is not a checkpoint of format {FORMAT}.",
                _TRAIN,
                path,
                expected=FORMAT,
                found=found,
            )
        if found == 1:
            values["model"] = _from_format_1(path, values["model"], values["class_names"])
        return CheckpointHeader(
            from_json(ModelSpec, values["model"]),
            **{key: dict(values[key]) for key in _MAPPINGS},
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"The header of {path} does not describe a model: {error}.", _TRAIN, path
        ) from error


def _from_format_1(path: Path, model: dict[str, Any], class_names: Any) -> dict[str, Any]:
    """Return the ``model`` of a header of format 1 as format 2 has it."""
    model = dict(model)
    name, task = str(model.pop("name")), dict(model.pop("dataset"))
    model.pop("published", None)
    names = [str(class_name) for class_name in class_names]
    expected = task.pop("num_classes")
    if expected != len(names):
        raise CheckpointError(
            f"{path} names {len(names)} classes, but its model has {expected}.",
            "Copy it again from where it came, or train the network again.",
            path,
            expected=expected,
            found=len(names),
        )
    registered = MODELS[name].architecture.name if name in MODELS else name
    return {
        "name": name,
        "architecture": {"name": registered, **model},
        "task": {**task, "class_names": names},
    }


def _printable(value: Any) -> Any:
    """Replace what UTF-8 cannot encode: names of files and folders that were not UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    return value
