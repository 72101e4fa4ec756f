import dataclasses

import pytest
import torch
from torch import nn

from delugeserve.networks.build import build_network
from delugeserve.training.optimisers import Muon, build_optimiser, orthogonalise
from delugeserve.training.recipes import find_recipe
from delugeserve.zoo import CIFAR10, Architecture, ModelSpec

TINY = ModelSpec("tiny", Architecture("tiny", "cifar", (4, 8), (1, 2)), CIFAR10)
SGD = dataclasses.replace(find_recipe("cifar-quick"), learning_rate=0.1)
MUON = dataclasses.replace(SGD, muon_rate=0.05, bias_rate=8.0)


@pytest.mark.parametrize("shape", [(3, 16, 144), (2, 64, 16), (1, 8, 8)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int, int]):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_orthogonalising_keeps_the_singular_vectors():
    matrix = torch.randn(1, 5, 9, generator=torch.Generator().manual_seed(0))
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.mT @ orthogonalise(matrix) @ vt.mT
    off = inside - torch.diag_embed(inside.diagonal(dim1=1, dim2=2))
    assert off.abs().max() < 1e-4


def test_weights_of_muon_keep_their_norm_and_move_by_the_rate():
    layer = nn.Conv2d(8, 4, 3)
    optimiser = Muon(
        [{"params": [layer.weight], "muon": True, "lr": 0.1}], lr=0.1, momentum=0.9, weight_decay=0
    )
    layer(torch.randn(2, 8, 5, 5)).square().sum().backward()
    optimiser.step()
    before = layer.weight.detach().clone()
    optimiser.step()
    layer.weight.grad = None
    scaled = before * 4**0.5 / before.norm()
    moved = (layer.weight.detach() - scaled).norm()
    assert moved == pytest.approx(0.1 * 4**0.5, rel=0.3), "four singular values near one"


def test_other_weights_follow_torch_sgd():
    ours, theirs = (nn.Linear(3, 2) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}
    optimisers = (
        Muon([{"params": list(ours.parameters())}], **settings),
        torch.optim.SGD(theirs.parameters(), nesterov=True, **settings),
    )
    inputs = torch.randn(3, 4, 3)
    for images in inputs:
        for layer, optimiser in zip((ours, theirs), optimisers, strict=True):
            optimiser.zero_grad()
            layer(images).square().sum().backward()
            optimiser.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


def test_every_weight_is_in_one_group():
    network = build_network(TINY, seed=0)
    for recipe in (SGD, MUON):
        groups = build_optimiser(network, recipe).param_groups
        found = [id(parameter) for group in groups for parameter in group["params"]]
        assert sorted(found) == sorted(map(id, network.parameters()))


def test_muon_trains_convolutions_and_biases_have_a_rate_of_their_own():
    network = build_network(TINY, seed=0)
    muon, others, biases = build_optimiser(network, MUON).param_groups
    assert all(parameter.dim() == 4 for parameter in muon["params"])
    assert muon["lr"] == 0.05
    assert others["lr"] == 0.1
    assert biases["lr"] == pytest.approx(0.8)
    assert biases["lr"] * biases["weight_decay"] == pytest.approx(0.1 * MUON.weight_decay)
    assert any(parameter is network.head.linear.bias for parameter in others["params"])


@pytest.mark.parametrize("recipe", [SGD, MUON])
def test_an_optimiser_learns_and_resumes(recipe):
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(16) % 10

    def train(steps: int, state: dict | None = None) -> tuple[list[float], dict]:
        network = build_network(TINY, seed=0)
        optimiser = build_optimiser(network, recipe)
        if state:
            network.load_state_dict(state["network"])
            optimiser.load_state_dict(state["optimiser"])
        losses = []
        for _ in range(steps):
            loss = nn.functional.cross_entropy(network(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        return losses, {"network": network.state_dict(), "optimiser": optimiser.state_dict()}

    whole, _ = train(12)
    first, state = train(6)
    second, _ = train(6, state)
    assert first + second == pytest.approx(whole, rel=1e-4)
    assert whole[-1] < whole[0] - 0.5
