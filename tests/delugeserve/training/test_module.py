"""The loss of a training step."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from delugeserve.networks.classifier import normalise
from delugeserve.training.augment import Augment, Mix
from delugeserve.training.distributed import World
from delugeserve.training.module import TrainingModule
from delugeserve.training.recipes import find_recipe, override
from delugeserve.zoo import CIFAR10

LABELS = torch.tensor([0, 0, 0, 0, 3, 7])
IMAGES = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8)
WEIGHTS = torch.linspace(0.5, 2, 10)


class Constant(nn.Module):
    """Logits that depend on the mean colour alone."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 10)

    def forward(self, images):
        return self.linear(images.mean((2, 3)))


def step(network, *, augment=None, mix=None, weights=None, **values):
    recipe = override(find_recipe("cifar"), **values)
    module = TrainingModule(network, CIFAR10, recipe, augment, mix, weights)
    module.log = lambda *_, **__: None
    return module.training_step((IMAGES, LABELS, torch.arange(6)), 0)


@pytest.fixture(autouse=True)
def _without_trainer(monkeypatch):
    monkeypatch.setattr(TrainingModule, "current_epoch", 0)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Constant()


def logits_of(network, images=IMAGES):
    mean, std = torch.tensor(CIFAR10.mean), torch.tensor(CIFAR10.std)
    return network(normalise(images, mean, std))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_mean_cross_entropy(network, smoothing):
    expected = F.cross_entropy(logits_of(network), LABELS, label_smoothing=smoothing)
    assert step(network, label_smoothing=smoothing).item() == pytest.approx(expected.item())


def test_class_weights_multiply_the_losses(network):
    losses = F.cross_entropy(logits_of(network), LABELS, reduction="none")
    expected = (losses * WEIGHTS[LABELS]).mean()
    assert step(network, weights=WEIGHTS).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("mix", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_mixed_images_have_mixed_labels(network, weights, mix):
    recipe = override(find_recipe("cifar"), **mix)
    mean, std = torch.tensor(CIFAR10.mean), torch.tensor(CIFAR10.std)
    pixels, targets = Mix(recipe, 10, 5)(normalise(IMAGES, mean, std), LABELS, 0, 0)
    weighted = targets if weights is None else targets * weights
    expected = -(weighted * network(pixels).log_softmax(1)).sum(1).mean()
    assert step(network, mix=Mix(recipe, 10, 5), weights=weights).item() == pytest.approx(
        expected.item()
    )


def test_images_in_memory_are_augmented_by_their_index(network):
    recipe = override(find_recipe("cifar"), flip="none", cutout=20)
    augment = Augment(CIFAR10, recipe, 0, World(), 6)
    expected = F.cross_entropy(
        logits_of(network, augment((IMAGES, LABELS, torch.arange(6)), 0, 0)), LABELS
    )
    assert step(network, augment=augment).item() == pytest.approx(expected.item())
