from dataclasses import replace

import pytest
import torch

from delugeserve.errors import UnknownNameError, UsageError
from delugeserve.networks.build import build_network
from delugeserve.networks.flops import count
from delugeserve.zoo import (
    ARCHITECTURES,
    CIFAR10,
    IMAGENET,
    MODELS,
    TASKS,
    Architecture,
    ModelSpec,
    find_architecture,
    find_model,
)

PUBLISHED = [spec for spec in MODELS.values() if spec.published]


@pytest.mark.parametrize("spec", PUBLISHED, ids=lambda spec: spec.name)
def test_size_and_cost_are_the_papers(spec):
    complexity = count(spec)
    assert complexity.params / 1e6 == pytest.approx(spec.published.params_m, rel=0.005)
    assert complexity.flops / 1e9 == pytest.approx(spec.published.gflops, rel=0.02)
    # By the paper's own count, every figure is as printed: one decimal for ImageNet, else two.
    decimals = 1 if spec.task is IMAGENET else 2
    assert round(complexity.paper_flops / 1e9, decimals) == spec.published.gflops


def test_the_papers_baselines_are_all_there():
    baselines = [spec for spec in PUBLISHED if spec.architecture.baseline]
    assert len(baselines) == 6
    assert {spec.architecture.baseline for spec in baselines} == {"1x1", "3x3"}


def test_names_carry_the_depth():
    for spec in MODELS.values():
        assert str(spec.architecture.depth) in spec.name


def test_every_data_set_names_its_classes():
    for task in TASKS.values():
        assert len(set(task.class_names)) == task.num_classes


def test_an_unknown_name_has_the_nearest():
    with pytest.raises(UnknownNameError) as caught:
        find_model("delugnet38")
    assert (caught.value.name, caught.value.nearest) == ("delugnet38", "delugenet38")


def test_a_name_like_no_other_lists_all():
    with pytest.raises(UnknownNameError) as caught:
        find_model("zzz")
    assert caught.value.nearest is None
    assert set(caught.value.known) == set(MODELS)


def test_an_architecture_is_found_by_its_models_names():
    expected = ARCHITECTURES["delugenet146"]
    assert find_architecture("delugenet146") == expected
    assert find_architecture("delugenet146_cifar100") == expected
    with pytest.raises(UnknownNameError) as caught:
        find_architecture("delugenet145")
    assert caught.value.nearest == "delugenet146"


@pytest.mark.parametrize("spec", MODELS.values(), ids=lambda spec: spec.name)
def test_registered_sizes_fit(spec):
    spec.architecture.check_image_size(spec.task.image_size)


@pytest.mark.parametrize(
    ("name", "size", "nearest"),
    [
        ("delugenet38", 30, "28 or 32"),
        ("delugenet38", 3, "4"),
        ("delugenet38", 0, "4"),
        ("delugenet92", 150, "128 or 160"),
        ("delugenet92", -32, "32"),
    ],
)
def test_a_size_that_does_not_fit_has_the_nearest_that_do(name, size, nearest):
    with pytest.raises(UsageError) as caught:
        find_architecture(name).check_image_size(size)
    assert caught.value.remedy == f"Use an image size of {nearest}."
    for fitting in nearest.split(" or "):
        find_architecture(name).check_image_size(int(fitting))


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_the_last_block_has_a_pixel_for_each_stride(stem):
    architecture = Architecture("tiny", stem, (2, 3, 4), (1, 1, 1))
    size = 3 * architecture.stride
    network = build_network(ModelSpec("tiny", architecture, replace(IMAGENET, image_size=size)))
    shapes = []
    network.blocks[-1].register_forward_hook(lambda _, __, outputs: shapes.append(outputs[0].shape))
    network(torch.zeros(1, 3, size, size))
    assert shapes[0][2:] == (3, 3)


def test_other_classes_leave_size_and_normalisation():
    spec = find_model("delugenet38").with_classes(["a", "b"])
    assert spec.task.num_classes == 2
    assert spec.task == replace(CIFAR10, class_names=("a", "b"))
    assert spec.architecture == find_model("delugenet38").architecture
