"""Networks for the tests of this package."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from delugeserve.networks.build import Network, build_network
from delugeserve.zoo import ModelSpec


@pytest.fixture(scope="session")
def scrambled() -> Callable[[ModelSpec], Network]:
    """A function from a model to a float64 network in which no two parameters are equal."""

    def build(spec: ModelSpec) -> Network:
        network = build_network(spec, seed=0).double()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).double())
        return network

    return build
