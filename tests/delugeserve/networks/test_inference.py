"""The folded network against the original, in float64."""

import pytest
import torch
from torch import nn

from delugeserve.networks.build import build_network
from delugeserve.networks.inference import fold
from delugeserve.zoo import CIFAR10, IMAGENET, Architecture, ModelSpec

SPECS = [
    ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6, 8), (1, 2, 4)), CIFAR10),
    ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6), (3, 1)), CIFAR10),
    ModelSpec("tiny", Architecture("tiny", "imagenet", (4, 6, 8, 10), (2, 1, 2, 3)), IMAGENET),
]


def randomised(spec):
    """A network without trivial BatchNorms."""
    network = build_network(spec, seed=0).double()
    generator = torch.Generator().manual_seed(0)

    def random(like):
        return torch.rand(like.shape, generator=generator, dtype=torch.float64)

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(random(module.running_mean) - 0.5)
                module.running_var.copy_(0.2 + random(module.running_var))
        for parameter in network.parameters():
            parameter.add_(random(parameter) - 0.5)
    return network.eval()


@pytest.mark.parametrize("spec", SPECS, ids=["cifar", "two blocks", "imagenet"])
def test_the_folded_network_is_the_same_function(spec):
    network = randomised(spec)
    size = 64 if spec.architecture.stem == "imagenet" else 16
    images = torch.randn(4, 3, size, size, dtype=torch.float64)
    folded = fold(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network(images), rtol=1e-9, atol=1e-9)


def test_folding_does_not_share_tensors():
    network = randomised(SPECS[0])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        for parameter in fold(network).parameters():
            parameter.zero_()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
