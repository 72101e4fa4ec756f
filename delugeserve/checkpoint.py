"""Checkpoints: one ``.safetensors`` file that says what it holds, and is never unpickled.

The tensors are the network's state (float32). The header's metadata holds, as JSON strings:
``format`` (this layout's version), ``model`` (the :class:`ModelSpec`), ``class_names``, ``recipe``,
``data`` (source and fingerprint), ``metrics`` and ``environment``.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from delugeserve.errors import CheckpointError, require
from delugeserve.networks.build import Network, build_network
from delugeserve.zoo import DatasetSpec, ModelSpec

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and where it comes from.

    Attributes:
        spec: the network's numbers, the normalisation among them.
        class_names: one name for each logit.
        state: the network's tensors by name, float32.
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


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint, beside its place first, then renamed into it.

    Raises:
        CheckpointError: the file cannot be written; what was there before is untouched.
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
            "Free some space or choose another --output.",
        ) from error


def load_checkpoint(path: Path, expected: ModelSpec | None = None) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: a ``.safetensors`` file that :func:`save_checkpoint` wrote.
        expected: the model it should hold; None accepts any.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it holds another model.
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
        matches = _shapes(build_network(spec).state_dict()) == _shapes(state)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path} does not say which model it holds.",
            "Give a checkpoint that 'delugeserve train' wrote.",
        ) from error
    if not matches or len(checkpoint.class_names) != spec.dataset.num_classes:
        raise CheckpointError(
            f"The tensors in {path} do not fit the model it names, '{spec.name}'.",
            "Train it again, or take an undamaged copy.",
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
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
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
