"""The network to export: from a checkpoint, the shipped weights, or a seed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from delugeserve.artifacts.labels import check_class_names
from delugeserve.artifacts.records import Origin
from delugeserve.errors import UsageError
from delugeserve.networks.build import build_network
from delugeserve.networks.checkpoint import load_checkpoint
from delugeserve.networks.classifier import normalise
from delugeserve.networks.delugenet import DelugeNet
from delugeserve.system.files import sha256
from delugeserve.zoo import ModelSpec


@dataclass(frozen=True)
class Source:
    """A network and its provenance.

    Attributes:
        network: in evaluation mode.
        spec: its architecture and task.
        trained: False for an untrained, seeded network.
        origin: the checkpoint or the seed.
    """

    network: DelugeNet
    spec: ModelSpec
    trained: bool
    origin: Origin


def load_source(spec: ModelSpec | None, checkpoint: Path | None) -> Source | None:
    """Load a checkpoint, or the shipped weights of a model; None if there are neither.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is of another model.
        ClassNameError: a label file cannot hold one of the class names.
        UsageError: the model is a ResNet-like baseline.
    """
    path = checkpoint or (spec.weights if spec else None)
    if path is None:
        return None
    loaded = load_checkpoint(path, spec)
    check_class_names(loaded.class_names, path)
    require_delugenet(loaded.spec)
    network = loaded.build()
    assert isinstance(network, DelugeNet)
    origin = Origin(
        file=path.name,
        sha256=sha256(path),
        recipe=loaded.recipe,
        data=loaded.data,
        metrics=loaded.metrics,
    )
    return Source(network, loaded.spec, True, origin)


def untrained_source(spec: ModelSpec, images: NDArray[np.uint8], *, seed: int = 0) -> Source:
    """Make an untrained network from a seed: its size and speed are right, its answers are not.

    Its BatchNorm statistics come from one pass over the images. Without them the signals would
    vanish layer by layer, and there would be nothing to compare.

    Args:
        spec: the model.
        images: uint8 ``[N, H, W, 3]``; at most eight are used.
        seed: of the weights.

    Raises:
        UsageError: the model is a ResNet-like baseline.
    """
    require_delugenet(spec)
    network = build_network(spec, seed=seed)
    assert isinstance(network, DelugeNet)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of this one batch, and nothing else
    mean, std = torch.tensor(spec.task.mean), torch.tensor(spec.task.std)
    with torch.no_grad():
        network.train()(normalise(torch.from_numpy(images[:8]), mean, std))
    return Source(network.eval(), spec, False, Origin(seed=seed))


def require_delugenet(spec: ModelSpec) -> None:
    """Refuse a ResNet-like baseline.

    Raises:
        UsageError: the model is one.
    """
    if spec.architecture.baseline:
        raise UsageError(
            f"'{spec.name}' is a ResNet-like baseline, which exists for comparison in training.",
            "Use --model with a DelugeNet; see 'delugeserve models'.",
        )


def without_published(spec: ModelSpec) -> ModelSpec:
    """Return a model without the paper's figures, for the manifest."""
    return dataclasses.replace(spec, published=None)
