"""The network as a classifier of uint8 images."""

import numpy as np
import pytest
import torch

from delugeserve.networks.build import build_network
from delugeserve.networks.classifier import network_classifier, normalise
from delugeserve.zoo import CIFAR10, find_model


def test_normalise_is_the_textbook_formula():
    images = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    mean, std = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.3, 0.4])
    expected = ((images.double() / 255 - mean) / std).permute(0, 3, 1, 2)
    got = normalise(images, mean, std)
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_network_is_not_compiled_again_for_inference_mode():
    network = build_network(find_model("delugenet38"), seed=0)
    compiled = []
    network.compile(backend=lambda graph, _: compiled.append(graph) or graph.forward)
    images = np.zeros((2, 32, 32, 3), np.uint8)
    assert network_classifier(network, CIFAR10)(images).shape == (2, 10)
    assert not compiled
