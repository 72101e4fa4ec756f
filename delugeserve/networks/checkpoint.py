"""Checkpoints: a trained network and its provenance in one ``.safetensors`` file.

The tensors are the network's state, in float32 or float16; :mod:`delugeserve.artifacts.checkpoints`
describes and parses the header. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from delugeserve.artifacts.checkpoints import CheckpointHeader, read_header
from delugeserve.errors import CheckpointError
from delugeserve.networks.build import Network, build_network
from delugeserve.system.files import atomic_write
from delugeserve.system.imports import require
from delugeserve.zoo import MODELS, ModelSpec

_CONV_DIMENSIONS = 4
"""Dimensions of a convolution's weight; no other tensor has as many."""


@dataclass(frozen=True)
class Checkpoint(CheckpointHeader):
    """A trained network and its provenance.

    Attributes:
        state: the network's tensors by name; floats are float32, even if the file holds float16.
    """

    state: Mapping[str, Tensor]

    def build(self) -> Network:
        """Return the network with its weights, in evaluation mode."""
        network = build_network(self.spec)
        network.load_state_dict(dict(self.state))
        return network.eval()


def save_checkpoint(checkpoint: Checkpoint, path: Path, *, half: bool = False) -> None:
    """Write a checkpoint atomically.

    Args:
        checkpoint: what to write.
        path: the file, which ends in ``.safetensors``.
        half: store the weights of convolutions in float16, which halves the file. All other
            tensors are small and stay float32: variances of BatchNorm may exceed float16's range.

    Raises:
        CheckpointError: a weight is too large for float16, or the file cannot be written; an
            existing file stays as it was.
    """
    safetensors = require("safetensors.torch", "train")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.state.items()}
    if half:
        state = {name: _halve(name, tensor) for name, tensor in state.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as staged:
            safetensors.save_file(state, staged, checkpoint.to_metadata())
            staged.chmod(0o644)  # safetensors makes it readable for its owner only
    except (OSError, require("safetensors", "train").SafetensorError) as error:
        raise CheckpointError(
            f"The checkpoint {path} cannot be written: {error}.",
            "Free some disk space, or choose another folder.",
            path,
        ) from error


def load_checkpoint(path: Path, expected: ModelSpec | None = None) -> Checkpoint:
    """Read a checkpoint; float16 becomes float32.

    Args:
        path: a ``.safetensors`` file that :func:`save_checkpoint` wrote.
        expected: the registered model that it should hold, or whose architecture the user's own
            network in it should have; None accepts any.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it holds another model or tensors
            of an unexpected type.
    """
    header = read_header(path)
    spec = header.spec
    state = _read_tensors(path)
    try:
        wanted = build_network(spec).state_dict()
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"The header of {path} does not describe a model.",
            "Give a .safetensors file that 'delugeserve train' wrote.",
            path,
        ) from error
    if _shapes(wanted) != _shapes(state):
        raise CheckpointError(
            f"The tensors in {path} do not fit the model that it names, '{spec.name}'.",
            "Copy it again from where it came, or train the network again.",
            path,
            expected=spec.name,
        )
    for name, tensor in state.items():
        if tensor.dtype != wanted[name].dtype:
            dtype, other = _dtype_name(wanted[name]), _dtype_name(tensor)
            raise CheckpointError(
                f"'{name}' in {path} is {other}, not {dtype}.",
                "Give a .safetensors file that 'delugeserve train' wrote.",
                path,
                expected=dtype,
                found=other,
            )
    if expected is not None and not _is_of(spec, expected):
        right = f"Use --model {spec.name}" if spec.name in MODELS else "Leave --model out"
        raise CheckpointError(
            f"{path} holds {_describe(spec)}, not {_describe(expected)}.",
            f"{right}, or give another checkpoint.",
            path,
            expected=expected.name,
            found=spec.name,
        )
    return Checkpoint(**vars(header), state=state)


def _describe(spec: ModelSpec) -> str:
    return f"'{spec.name}' ({spec.architecture.name}, {spec.task.num_classes} classes)"


def _is_of(spec: ModelSpec, expected: ModelSpec) -> bool:
    """Whether a network is the expected one, or a user's own with the same architecture."""
    own = spec.name not in MODELS
    return spec.architecture == expected.architecture and (
        own or spec.task.num_classes == expected.task.num_classes
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    safetensors = require("safetensors", "train")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file: {error}.",
            "Copy it again from where it came, or train the network again.",
            path,
        ) from error
    return {name: t.float() if t.dtype is torch.float16 else t for name, t in stored.items()}


def _halve(name: str, tensor: Tensor) -> Tensor:
    if tensor.dim() != _CONV_DIMENSIONS:
        return tensor
    largest = torch.finfo(torch.float16).max
    if tensor.abs().max() > largest:
        raise CheckpointError(
            f"A weight of '{name}' is too large for float16.",
            "Save the checkpoint in float32.",
            expected=largest,
            found=float(tensor.abs().max()),
        )
    return tensor.half()


def _shapes(state: Mapping[str, Tensor]) -> Mapping[str, Sequence[int]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
