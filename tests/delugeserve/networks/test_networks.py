"""The network against a literal transcription of the paper's equations, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from delugeserve.networks.build import build_network
from delugeserve.networks.flops import count
from delugeserve.networks.layers import CrossLayerSum
from delugeserve.zoo import CIFAR10, IMAGENET, MODELS, Architecture, ModelSpec, find_model

TINY_CIFAR = ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6, 8), (3, 2, 4)), CIFAR10)
TINY_IMAGENET = ModelSpec(
    "tiny", Architecture("tiny", "imagenet", (4, 6, 8, 10), (2, 1, 2, 3)), IMAGENET
)


def images_for(spec, n=3):
    generator = torch.Generator().manual_seed(1)
    size = 64 if spec.architecture.stem == "imagenet" else 16
    return torch.randn(n, 3, size, size, generator=generator, dtype=torch.float64)


def batch_norm(x, weight, bias):
    return F.batch_norm(x, None, None, weight, bias, training=True)


def read(sum_, outputs):
    """Each reader normalises each input, with its own affine weight and bias, as the authors do."""
    return sum(batch_norm(h, w, b) for h, w, b in zip(outputs, sum_.weight, sum_.bias, strict=True))


def literal_forward(network, x):
    """The network as the paper describes it: raw outputs in a list, per-reader BatchNorm."""
    stem = network.stem
    x = F.conv2d(x, stem.conv.weight, None, stem.conv.stride, stem.conv.padding)
    if network.spec.architecture.stem == "imagenet":
        x = F.relu(batch_norm(x, stem.norm.weight, stem.norm.bias))
        x = F.conv2d(F.max_pool2d(x, 3, 2, 1), stem.widen.weight)
    outputs = []
    for index, block in enumerate(network.blocks):
        if index:
            transition = network.transitions[index - 1]
            x = read(transition.sum, outputs)
            x = batch_norm(x, transition.norm.weight, transition.norm.bias)
            x = F.conv2d(x, transition.conv.weight, None, 2, 1)
        outputs = [] if index == 0 and network.spec.architecture.stem == "cifar" else [x]
        sums = list(block.sums)
        for layer in block.layers:
            if len(outputs) > 1:
                x = read(sums.pop(0), outputs)
            x = F.conv2d(
                F.relu(batch_norm(x, layer.norm1.weight, layer.norm1.bias)), layer.conv1.weight
            )
            x = F.relu(batch_norm(x, layer.norm2.weight, layer.norm2.bias))
            x = F.conv2d(x, layer.conv2.weight, None, 1, 1)
            x = F.relu(batch_norm(x, layer.norm3.weight, layer.norm3.bias))
            x = F.conv2d(x, layer.conv3.weight)
            outputs.append(x)
        assert not sums
    head = network.head
    x = F.relu(batch_norm(read(head.sum, outputs), head.norm.weight, head.norm.bias))
    return F.linear(x.mean((2, 3)), head.linear.weight, head.linear.bias)


@pytest.mark.parametrize("spec", [TINY_CIFAR, TINY_IMAGENET], ids=["cifar", "imagenet"])
def test_outputs_and_gradients_equal_the_literal_form(scrambled, spec):
    network = scrambled(spec)
    x = images_for(spec).requires_grad_()
    inputs = [x, *network.parameters()]
    weights = torch.randn(3, spec.task.num_classes, dtype=torch.float64)

    ours = network(x)
    literal = literal_forward(network, x)
    torch.testing.assert_close(ours, literal, rtol=1e-9, atol=1e-9)

    gradients = torch.autograd.grad((ours * weights).sum(), inputs)
    expected = torch.autograd.grad((literal * weights).sum(), inputs)
    for gradient, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("spec", [TINY_CIFAR, TINY_IMAGENET], ids=["cifar", "imagenet"])
def test_every_output_and_parameter_gets_a_gradient(spec):
    network = build_network(spec, seed=0).double()
    seen = []

    def keep(_module, _inputs, output):
        output.retain_grad()
        seen.append(output)

    for block in network.blocks:
        for norm in block.norms:
            norm.register_forward_hook(keep)
    F.cross_entropy(network(images_for(spec)), torch.tensor([0, 1, 2])).backward()
    assert len(seen) == sum(block.num_outputs for block in network.blocks)
    assert all(output.grad.abs().max() > 0 for output in seen)
    assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())


@pytest.mark.parametrize(
    "name",
    ["delugenet38", "delugenet146_cifar100", "delugenet92", "baseline38_1x1", "baseline38_3x3"],
)
def test_the_arithmetic_count_is_the_modules_own(name):
    spec = find_model(name)
    with torch.device("meta"):
        network = build_network(spec)
        image = torch.empty(1, *spec.input_shape)
    complexity = count(spec)
    assert sum(parameter.numel() for parameter in network.parameters()) == complexity.params
    # Torch counts convolutions and the Linear layer, but not cross-layer sums.
    sums: list[int] = []
    for module in network.modules():
        if isinstance(module, CrossLayerSum):
            module.register_forward_hook(
                lambda m, _i, out: sums.append(2 * m.weight.numel() * out.shape[2] * out.shape[3])
            )
    with FlopCounterMode(display=False) as counter:
        network(image)
    assert counter.get_total_flops() + sum(sums) == complexity.flops


def test_initial_cross_layer_weights_average():
    network = build_network(find_model("delugenet38"))
    for module in network.modules():
        if isinstance(module, CrossLayerSum):
            torch.testing.assert_close(module.weight.sum(0), torch.ones_like(module.weight[0]))
            assert not module.bias.any()


def test_a_seed_determines_the_weights_and_keeps_torchs_state():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, other = (build_network(MODELS["delugenet38"], seed=3) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
