import dataclasses
from pathlib import Path

import pytest
import torch

from delugeserve.errors import CheckpointError
from delugeserve.networks.build import build_network
from delugeserve.networks.checkpoint import Checkpoint, save_checkpoint
from delugeserve.networks.fused import best_kernels
from delugeserve.training.distillation import Teacher, check_teacher, load_teacher
from delugeserve.training.module import TrainingModule, shrink
from delugeserve.training.recipes import find_recipe
from delugeserve.zoo import CIFAR10, Architecture, ModelSpec

TINY = ModelSpec("tiny", Architecture("tiny", "cifar", (4, 8), (1, 2)), CIFAR10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(Checkpoint(TINY, state=build_network(TINY, seed=0).state_dict()), path)
    return path


def test_a_network_diverges_from_others_and_not_from_itself():
    network = build_network(TINY, seed=0).eval()
    teacher = Teacher(network, CIFAR10, CIFAR10)
    images = torch.randn(4, 3, 8, 8)
    logits = network(images)
    assert teacher(images, logits).item() == pytest.approx(0, abs=1e-6)
    assert teacher(images, logits.flip(1)).item() > 1e-3
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_teacher_sees_images_in_its_own_normalisation():
    other = dataclasses.replace(CIFAR10, mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.3))
    network = build_network(TINY, seed=0).eval()
    pixels = torch.rand(2, 3, 8, 8)

    def normalised(task):
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (task.mean, task.std))
        return (pixels - mean) / std

    teacher = Teacher(network, other, CIFAR10)
    loss = teacher(normalised(CIFAR10), network(normalised(other)))
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_a_teacher_has_the_same_classes(path: Path):
    assert check_teacher(str(path), CIFAR10) == path
    two = dataclasses.replace(CIFAR10, class_names=("cat", "dog"))
    with pytest.raises(CheckpointError) as caught:
        load_teacher(path, two)
    assert caught.value.expected == ("cat", "dog")


def test_a_teacher_is_part_of_the_loss_and_not_of_the_state():
    recipe = dataclasses.replace(find_recipe("cifar-quick"), distillation=1.0)
    network = build_network(TINY, seed=0)
    teacher = Teacher(build_network(TINY, seed=1), CIFAR10, CIFAR10)
    module = TrainingModule(network, CIFAR10, recipe, teacher=teacher)
    assert not [name for name in module.state_dict() if "teacher" in name]
    assert set(map(id, module.parameters())) == set(map(id, network.parameters()))


def test_fused_kernels_do_not_change_the_loss_of_a_teacher():
    teacher = Teacher(build_network(TINY, seed=1), CIFAR10, CIFAR10)
    images, logits = torch.randn(4, 3, 32, 32), torch.randn(4, 10)
    plain = teacher(images, logits)
    teacher.network.fuse_sums(best_kernels())
    assert teacher(images, logits).item() == pytest.approx(plain.item(), rel=1e-4)


def test_shrunk_images_have_three_quarters_of_the_size():
    assert shrink(torch.randn(2, 3, 32, 32)).shape == (2, 3, 24, 24)
