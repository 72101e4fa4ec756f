"""Fused and checkpointed sums, and the authors' per-reader form, against the plain network."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from delugeserve.errors import UsageError
from delugeserve.networks.build import build_network
from delugeserve.networks.fused import (
    SharedOutputs,
    plain_sum,
    require_compiler,
    weighted_sum,
    weighted_sum_gradients,
)
from delugeserve.networks.layers import OutputNorm
from delugeserve.networks.per_reader import per_reader
from delugeserve.zoo import CIFAR10, Architecture, ModelSpec

TINY = ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6, 8), (3, 2, 4)), CIFAR10)
# Compiling takes seconds, so all compiling tests use the same kind of tensors.
KERNELS = ("plain", pytest.param("compiled", marks=pytest.mark.slow))


def step(network, dtype=torch.float64):
    """Logits and the images' gradient of one training step; the network keeps its own gradients."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 16, 16, generator=generator, dtype=dtype).requires_grad_()
    logits = network(images)
    F.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    return logits.detach(), images.grad


def everything(network, outcome):
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    return {
        "logits": outcome[0],
        "images": outcome[1],
        **gradients,
        **dict(network.named_buffers()),
    }


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_fused_sums_change_neither_outputs_nor_gradients_nor_statistics(
    scrambled, kernels, checkpointed
):
    plain, fused = scrambled(TINY), scrambled(TINY)
    fused.fuse_sums(kernels)
    if checkpointed:
        fused.checkpoint_sums()
    assert fused.state_dict().keys() == plain.state_dict().keys()
    found, expected = everything(fused, step(fused)), everything(plain, step(plain))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-10, msg=name)

    with torch.no_grad():
        images = torch.ones(2, 3, 16, 16, dtype=torch.float64)
        torch.testing.assert_close(fused.eval()(images), plain.eval()(images))


def test_checkpointed_sums_change_no_bit():
    plain, checkpointed = (build_network(TINY, seed=0) for _ in range(2))
    checkpointed.checkpoint_sums()
    found = everything(checkpointed, step(checkpointed, torch.float32))
    for name, tensor in everything(plain, step(plain, torch.float32)).items():
        assert torch.equal(found[name], tensor), name
    norm = checkpointed.blocks[0].layers[-1].norm1
    assert norm.num_batches_tracked == 1
    assert norm.momentum == 0.1


def test_checkpointed_sums_are_not_saved():
    def kept(network):
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(torch.zeros(2, 3, 16, 16))
        return sum(storage.nbytes() for storage in storages.values())

    plain, checkpointed = (build_network(TINY, seed=0) for _ in range(2))
    checkpointed.checkpoint_sums()
    # Of the sum and the ReLU of each layer that reads a sum, in float32.
    outputs = [(1, 8, 16), (1, 12, 8), (3, 16, 4)]
    saved = sum(2 * 4 * layers * 2 * c * size * size for layers, c, size in outputs)
    assert kept(plain) - kept(checkpointed) >= saved


def test_per_reader_normalisation_is_the_same_function(scrambled):
    ours = scrambled(TINY)
    theirs = per_reader(ours)
    for found, expected in zip(step(theirs), step(ours), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    for block, ours_after, theirs_after in zip(
        theirs.blocks, ours.followers, theirs.followers, strict=True
    ):
        for name in ("weight", "bias"):
            gradients = [getattr(norm, name).grad for norm in theirs_after.sum.norms]
            torch.testing.assert_close(
                torch.stack(gradients), getattr(ours_after.sum, name).grad, rtol=1e-7, atol=1e-9
            )
        assert len(gradients) == block.num_outputs
    images = torch.ones(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(theirs.eval()(images), ours.eval()(images), rtol=1e-7, atol=1e-9)


def block_of_sums(entry, *parameters, kernels):
    """Two outputs, then more, each from a sum of all before it, as in a block; the last sum."""
    weights, biases = parameters[: len(parameters) // 2], parameters[len(parameters) // 2 :]
    outputs = SharedOutputs(weights, kernels)
    outputs.append(entry)
    outputs.append(entry.sin())
    for weight, bias in zip(weights[:-1], biases, strict=False):
        outputs.append(outputs.weighted_sum(weight, bias).tanh())
    return outputs.weighted_sum(weights[-1], biases[-1])


@pytest.mark.parametrize("kernels", KERNELS)
def test_gradients_are_the_numeric_ones(kernels):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    entry = draw(1, 2, 3, 3)
    numbers = range(2, 11)  # more than one pass
    parameters = [draw(number, 2) for number in numbers] + [draw(2) for _ in numbers]
    assert torch.autograd.gradcheck(
        lambda *inputs: block_of_sums(*inputs, kernels=kernels),
        (entry, *parameters),
        fast_mode=True,
    )


def test_a_retained_graph_gives_the_same_gradients_again():
    entry = torch.randn(2, 3, 4, 4, requires_grad=True)
    weights = [torch.randn(number, 3, requires_grad=True) for number in (2, 3)]
    biases = [torch.zeros(3, requires_grad=True) for _ in weights]
    result = block_of_sums(entry, *weights, *biases, kernels="plain").sum()
    first = torch.autograd.grad(result, [entry, *weights], retain_graph=True)
    again = torch.autograd.grad(result, [entry, *weights])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("kernels", KERNELS)
@settings(max_examples=15, deadline=None)
@given(
    number=st.integers(1, 24),
    channels=st.sampled_from([3, 24, 32]),
    shape=st.sampled_from([(1, 2, 3), (2, 5, 6)]),
    channels_last=st.booleans(),
)
def test_a_sum_and_its_gradients(kernels, number, channels, shape, channels_last):
    n, h, w = shape
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(number + 1, n, channels, h, w, generator=generator, dtype=torch.float64)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, *others = (image.contiguous(memory_format=layout) for image in images)
    weight = torch.randn(number, channels, generator=generator, dtype=torch.float64)
    bias = weight.mean(0)

    total = weighted_sum(others, weight, bias, kernels)
    torch.testing.assert_close(total, plain_sum(others, weight, bias))

    x.requires_grad_()
    weight.requires_grad_()
    terms = [weight[i, :, None, None] * x * g for i, g in enumerate(others)]
    expected = torch.autograd.grad(torch.stack(terms).sum(), (x, weight))
    found = weighted_sum_gradients(x.detach(), others, weight.detach(), kernels)
    for gradient, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, reference)


@pytest.mark.slow
def test_in_bf16_a_compiled_sum_is_rounded_less_than_a_plain_one():
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(24, 2, 32, 8, 8, generator=generator).bfloat16().double()
    weight = torch.randn(24, 32, generator=generator)
    reference = plain_sum(list(exact), weight.double(), torch.zeros(32).double())
    errors = {
        kernels: (
            weighted_sum(list(exact.bfloat16()), weight, torch.zeros(32), kernels) - reference
        )
        .abs()
        .mean()
        for kernels in ("plain", "compiled")
    }
    assert errors["compiled"] < errors["plain"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_output_norm_is_a_batch_norm(dtype):
    ours, reference = OutputNorm(5).to(dtype), torch.nn.BatchNorm2d(5, affine=False).to(dtype)
    x = torch.randn(4, 5, 6, 6, dtype=dtype) * 3 + 1
    weight = torch.randn_like(x)
    results = []
    for norm in (ours, reference):
        images = x.clone().requires_grad_()
        (norm(images) * weight).sum().backward()
        results.append((norm(images), images.grad, *norm.state_dict().values()))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_a_fused_network_can_be_copied(scrambled):
    network = scrambled(TINY)
    network.fuse_sums("plain")
    twin = copy.deepcopy(network)
    assert twin.blocks[-1].readers[-1] is twin.head.sum


@pytest.mark.parametrize(("gpu", "variable"), [(False, "CXX"), (True, "CC")])
def test_a_missing_compiler_is_named(monkeypatch, gpu, variable):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setenv(variable, "no-such-compiler")
    with pytest.raises(UsageError) as caught:
        require_compiler()
    assert "no-such-compiler" in caught.value.problem
    assert variable in caught.value.remedy
    monkeypatch.delenv(variable)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="gcc or clang" if gpu else r"(g|clang)\+\+"):
        require_compiler()
