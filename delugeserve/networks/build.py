"""Building a network with freshly initialised weights."""

from __future__ import annotations

import torch
from torch import nn

from delugeserve.networks.baselines import Baseline
from delugeserve.networks.delugenet import DelugeNet
from delugeserve.zoo import ModelSpec

Network = DelugeNet | Baseline


def build_network(spec: ModelSpec, *, seed: int | None = None) -> Network:
    """Build a network with the paper's initialisation.

    Convolutions are He normal over fan-out, cross-layer weights are ``1 / L`` for L inputs, and
    biases are zero.

    Args:
        spec: the model; see :func:`delugeserve.zoo.find_model`.
        seed: seed of the weights. None uses torch's global generator; otherwise the state of that
            generator does not change.
    """
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        network: Network = Baseline(spec) if spec.architecture.baseline else DelugeNet(spec)
        network.apply(_initialise)
    return network


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
