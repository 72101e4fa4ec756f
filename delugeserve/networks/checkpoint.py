"""Checkpoints: one ``.safetensors`` file that says what it holds, and is never unpickled.

The tensors are the network's state, in float32 or float16. The header's metadata holds, as JSON
strings: ``format`` (this layout's version), ``model`` (the :class:`ModelSpec`), ``class_names``,
``recipe``, ``data`` (source and fingerprint), ``metrics`` and ``environment``.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from delugeserve.errors import CheckpointError, require
from delugeserve.networks.build import Network, build_network
from delugeserve.zoo import DatasetSpec, ModelSpec

FORMAT = 1

_CONVOLUTION = 4
"""Dimensions of a convolution's weight; no other tensor has so many."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and where it comes from.

    Attributes:
        spec: the network's numbers, the normalisation among them.
        class_names: one name for each logit.
        state: the network's tensors by name, float32, whatever the file holds.
        recipe: how it was trained.
        data: what it was trained on.
        metrics: what was measured on the test split.
        environment: versions and machine of the training run.
    """

    spec: ModelSpec
    class_names: tuple[str, ...]
    state: Mapping[str, Tensor]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> Network:
        """Make the network, in evaluation mode."""
        network = build_network(self.spec)
        network.load_state_dict(dict(self.state))
        return network.eval()


def save_checkpoint(checkpoint: Checkpoint, path: Path, *, half: bool = False) -> None:
    """Write a checkpoint, beside its place first, then renamed into it.

    Args:
        checkpoint: what to write.
        path: the file, which ends in ``.safetensors``.
        half: store the convolutions' weights in float16, which halves the file. Everything else is
            small, and stays in float32: a BatchNorm's variances may lie outside float16's range.

    Raises:
        CheckpointError: a weight is too large for float16, or the file cannot be written; what was
            there before is untouched.
    """
    safetensors = require("safetensors.torch", "train")
    metadata = {
        "format": FORMAT,
        "model": dataclasses.asdict(dataclasses.replace(checkpoint.spec, published=None)),
        "class_names": checkpoint.class_names,
        "recipe": checkpoint.recipe,
        "data": checkpoint.data,
        "metrics": checkpoint.metrics,
        "environment": checkpoint.environment,
    }
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.state.items()}
    if half:
        state = {name: _halve(name, tensor) for name, tensor in state.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".saving-") as folder:
            staged = Path(folder) / path.name
            safetensors.save_file(
                state, staged, {key: json.dumps(value) for key, value in metadata.items()}
            )
            staged.chmod(0o644)  # safetensors leaves it to its owner alone
            staged.replace(path)
    except (OSError, require("safetensors", "train").SafetensorError) as error:
        raise CheckpointError(
            f"The checkpoint {path} could not be written: {error}.",
            "Free some space, then save it again.",
        ) from error


def _halve(name: str, tensor: Tensor) -> Tensor:
    if tensor.dim() != _CONVOLUTION:
        return tensor
    if tensor.abs().max() > torch.finfo(torch.float16).max:
        raise CheckpointError(f"'{name}' is too large for float16.", "Save it in float32.")
    return tensor.half()


def shipped_weights(spec: ModelSpec) -> Path:
    """Find the trained weights of a model that ship with the package.

    Raises:
        CheckpointError: none do.
    """
    if spec.weights is None:
        raise CheckpointError(
            f"No trained weights of '{spec.name}' ship with the package.",
            "Train it, then give the checkpoint.",
        )
    return spec.weights


def load_checkpoint(path: Path, expected: ModelSpec | None = None) -> Checkpoint:
    """Read a checkpoint; float16 becomes float32.

    Args:
        path: a ``.safetensors`` file that :func:`save_checkpoint` wrote.
        expected: the model it should hold; None accepts any.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it holds another model or tensors
            of a type that we do not write.
    """
    metadata, state = _read(path)
    try:
        spec = _parse_model(metadata["model"])
        checkpoint = Checkpoint(
            spec,
            tuple(metadata["class_names"]),
            state,
            metadata["recipe"],
            metadata["data"],
            metadata["metrics"],
            metadata["environment"],
        )
        wanted = build_network(spec).state_dict()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path} does not say which model it holds.",
            "Give a checkpoint that 'delugeserve train' wrote.",
        ) from error
    if _shapes(wanted) != _shapes(state) or len(checkpoint.class_names) != spec.dataset.num_classes:
        raise CheckpointError(
            f"The tensors in {path} do not fit the model it names, '{spec.name}'.",
            "Train it again, or take an undamaged copy.",
        )
    for name, tensor in state.items():
        if tensor.dtype != wanted[name].dtype:
            raise CheckpointError(
                f"'{name}' in {path} is {_describe(tensor)}, not {_describe(wanted[name])}.",
                "Give a .safetensors file that 'delugeserve train' wrote.",
            )
    if expected is not None and _architecture(spec) != _architecture(expected):
        raise CheckpointError(
            f"{path} holds '{spec.name}' with {spec.dataset.num_classes} classes, "
            f"not '{expected.name}' with {expected.dataset.num_classes}.",
            f"Say --model {spec.name}, or give another checkpoint.",
        )
    return checkpoint


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    safetensors = require("safetensors", "train")
    if not path.is_file():
        raise CheckpointError(
            f"There is no checkpoint {path}.", "Give the path of a .safetensors file."
        )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = {key: json.loads(text) for key, text in texts.items()}
    except (OSError, safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path} is not a whole checkpoint of ours ({error}).",
            "Give a .safetensors file that 'delugeserve train' wrote.",
        ) from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is a safetensors file, but not a checkpoint of format {FORMAT}.",
            "Give a .safetensors file that 'delugeserve train' wrote.",
        )
    state = {name: t.float() if t.dtype is torch.float16 else t for name, t in stored.items()}
    return metadata, state


def _parse_model(values: Mapping[str, Any]) -> ModelSpec:
    dataset = dict(values["dataset"])
    dataset["mean"], dataset["std"] = tuple(dataset["mean"]), tuple(dataset["std"])
    return ModelSpec(
        name=values["name"],
        stem=values["stem"],
        widths=tuple(values["widths"]),
        layers=tuple(values["layers"]),
        dataset=DatasetSpec(**dataset),
        baseline=values.get("baseline"),
    )


def _architecture(spec: ModelSpec) -> tuple[Any, ...]:
    dataset = spec.dataset
    shape = (spec.stem, spec.widths, spec.layers, spec.baseline)
    return (*shape, dataset.num_classes, dataset.image_size)


def _shapes(state: Mapping[str, Tensor]) -> Mapping[str, Sequence[int]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _describe(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
