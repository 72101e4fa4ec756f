"""The ResNet-like baselines against a literal transcription of the paper's text, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from delugeserve.networks.baselines import Baseline
from delugeserve.networks.build import build_network
from delugeserve.networks.layers import CrossLayerSum
from delugeserve.zoo import CIFAR10, IMAGENET, Architecture, ModelSpec, find_model

TINY = {
    f"{stem} {shortcut}": ModelSpec(
        "tiny", Architecture("tiny", stem, widths, layers, shortcut), task
    )
    for shortcut in ("1x1", "3x3")
    for stem, widths, layers, task in (
        ("cifar", (4, 6, 8), (3, 2, 4), CIFAR10),
        ("imagenet", (4, 6, 8, 10), (2, 1, 2, 3), IMAGENET),
    )
}
# Table 2: millions of parameters.
PAPER = {
    "baseline146_1x1_cifar100": 6.15,
    "baseline146_3x3_cifar100": 6.50,
    "baseline218_1x1_cifar100": 9.26,
    "baseline218_3x3_cifar100": 9.55,
    "wide_baseline146_1x1_cifar100": 18.76,
    "wide_baseline146_3x3_cifar100": 19.82,
}


def norm(x, module):
    return F.batch_norm(x, None, None, module.weight, module.bias, training=True)


def literal_forward(network, x):
    """Each layer sums the whole list of earlier outputs, without weights."""
    stem = network.stem
    x = F.conv2d(x, stem.conv.weight, None, stem.conv.stride, stem.conv.padding)
    if network.spec.architecture.stem == "imagenet":
        x = F.conv2d(F.max_pool2d(F.relu(norm(x, stem.norm)), 3, 2, 1), stem.widen.weight)
    outputs = []
    for index, block in enumerate(network.blocks):
        if index:
            transition = network.transitions[index - 1]
            x = sum(outputs)
            if network.spec.architecture.baseline == "1x1":
                (conv,) = transition
                x = F.conv2d(x, conv.weight, None, stride=2)
            else:
                bn, conv = transition
                x = F.conv2d(norm(x, bn), conv.weight, None, stride=2, padding=1)
        # The stem of a CIFAR network has fewer channels than the outputs.
        outputs = [] if index == 0 and network.spec.architecture.stem == "cifar" else [x]
        for layer in block.layers:
            x = sum(outputs) if outputs else x
            x = F.conv2d(F.relu(norm(x, layer.norm1)), layer.conv1.weight)
            x = F.conv2d(F.relu(norm(x, layer.norm2)), layer.conv2.weight, None, 1, 1)
            x = F.conv2d(F.relu(norm(x, layer.norm3)), layer.conv3.weight)
            outputs.append(x)
    features = F.relu(norm(sum(outputs), network.norm)).mean((2, 3))
    return F.linear(features, network.linear.weight, network.linear.bias)


@pytest.mark.parametrize("spec", TINY.values(), ids=TINY)
def test_outputs_and_gradients_equal_the_literal_form(scrambled, spec):
    network = scrambled(spec)
    size = 64 if spec.architecture.stem == "imagenet" else 16
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 3, size, size, generator=generator, dtype=torch.float64)
    weights = torch.randn(3, spec.task.num_classes, generator=generator).double()
    parameters = list(network.parameters())

    ours, literal = network(x), literal_forward(network, x)
    torch.testing.assert_close(ours, literal, rtol=1e-9, atol=1e-9)
    gradients = torch.autograd.grad((ours * weights).sum(), parameters)
    expected = torch.autograd.grad((literal * weights).sum(), parameters)
    for gradient, reference in zip(gradients, expected, strict=True):
        assert reference.abs().max() > 0
        torch.testing.assert_close(gradient, reference, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(("name", "params_m"), PAPER.items(), ids=PAPER)
def test_the_parameters_are_the_papers_within_one_percent(name, params_m):
    with torch.device("meta"):
        network = build_network(find_model(name))
    params = sum(parameter.numel() for parameter in network.parameters())
    assert params / 1e6 == pytest.approx(params_m, rel=0.01)


@pytest.mark.parametrize("shortcut", ["1x1", "3x3"])
def test_only_the_cross_layer_sums_and_the_shortcut_differ(shortcut):
    """The layers of a baseline are those of the DelugeNet, one by one."""
    baseline = build_network(find_model(f"baseline38_{shortcut}"))
    network = build_network(find_model("delugenet38"))
    assert not any(isinstance(module, CrossLayerSum) for module in baseline.modules())
    for ours, theirs in zip(network.blocks, baseline.blocks, strict=True):
        shapes = [[p.shape for p in block.layers.parameters()] for block in (ours, theirs)]
        assert shapes[0] == shapes[1]
    kernels = {conv.kernel_size for conv in _convolutions(baseline.transitions)}
    assert kernels == {(1, 1) if shortcut == "1x1" else (3, 3)}


def _convolutions(module):
    return [one for one in module.modules() if isinstance(one, nn.Conv2d)]


def test_a_delugenet_is_not_a_baseline():
    with pytest.raises(ValueError, match="delugenet38"):
        Baseline(find_model("delugenet38"))
