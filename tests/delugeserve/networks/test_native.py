"""The compiled BatchNorms and sums against PyTorch's in float64."""

import os
import shutil

import pytest
import torch
import torch.nn.functional as F

from delugeserve.errors import Failure
from delugeserve.networks import native, native_library
from delugeserve.networks.build import build_network
from delugeserve.networks.fused import plain_sum
from delugeserve.networks.layers import AffineNorm
from delugeserve.zoo import CIFAR10, Architecture, ModelSpec

pytestmark = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs a C++ compiler"
)

# Some norms of the first network have too few channels for the kernels: the two kinds are mixed.
SPECS = [
    ModelSpec("tiny", Architecture("tiny", "cifar", widths, (3, 2)), CIFAR10)
    for widths in ((6, 16), (16, 32), (8, 24))
]
SHAPES = [(3, 32, 5, 4), (2, 16, 4, 4), (2, 56, 4, 6), (5, 64, 1, 1), (70, 8, 16, 16)]


def error(found, expected):
    return ((found.double() - expected).norm() / expected.norm().clamp_min(1e-30)).item()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_norm_and_relu_are_those_of_pytorch(shape, relu, layout):
    torch.manual_seed(0)
    norm = AffineNorm(shape[1])
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    reference = torch.nn.BatchNorm2d(shape[1]).double()
    reference.load_state_dict(norm.state_dict())
    x = (torch.randn(shape) * 2 + 3).contiguous(memory_format=layout).requires_grad_()
    exact = x.detach().double().requires_grad_()
    weight = torch.randn(shape)
    assert native.supports(x)
    found = native.norm_relu(x, norm, relu=relu)
    expected = torch.relu(reference(exact)) if relu else reference(exact)
    (found * weight).sum().backward()
    (expected * weight.double()).sum().backward()
    assert error(found, expected) < 1e-6
    assert error(x.grad, exact.grad) < 1e-5
    assert error(norm.weight.grad, reference.weight.grad) < 1e-5
    assert error(norm.bias.grad, reference.bias.grad) < 1e-5
    for name, buffer in reference.named_buffers():
        assert error(norm.get_buffer(name), buffer.double()) < 1e-6, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_variance_survives_a_large_mean(dtype):
    torch.manual_seed(0)
    x = (torch.randn(8, 32, 8, 8) + 100).to(dtype)
    mean, variance = native.moments(x)
    exact = x.double()
    assert error(mean, exact.mean((0, 2, 3))) < 1e-6
    assert error(variance, exact.var((0, 2, 3), correction=0)) < 1e-5


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.architecture.widths}")
@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_training_step_is_the_plain_one(spec, checkpointed):
    def step(dtype, kernels):
        network = build_network(spec, seed=0).to(dtype)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in network.parameters():
                noise = torch.randn(parameter.shape, generator=generator).to(dtype)
                parameter.add_(noise, alpha=0.05)
        if kernels:
            network.fuse_sums(kernels)
        if checkpointed:
            network.checkpoint_sums()
        logits = network(torch.randn(9, 3, 16, 16, generator=generator).to(dtype))
        F.cross_entropy(logits, torch.arange(9)).backward()
        gradients = {name: p.grad for name, p in network.named_parameters()}
        return logits.detach(), gradients, dict(network.named_buffers()), network

    expected = step(torch.float64, None)
    found = step(torch.float32, "native")
    assert error(found[0], expected[0]) < 1e-4
    for kind in (1, 2):
        assert found[kind].keys() == expected[kind].keys()
        for name, tensor in expected[kind].items():
            # The gradients of the sums' biases are zero: a norm follows, which ignores them.
            if not (name.endswith("bias") and ".sum" in name):
                # A sum near zero may change its sign in float32, and a ReLU's gradient with it.
                assert error(found[kind][name], tensor.double()) < 0.05, name
    found[3].eval()(torch.zeros(2, 3, 16, 16))  # tests use the running statistics


def test_sums_and_their_gradients():
    torch.manual_seed(0)
    x, *others = (torch.randn(4, 24, 4, 4, dtype=torch.float64) for _ in range(12))
    weight, bias = torch.randn(11, 24), torch.randn(24)
    total = native.weighted_sum([o.float() for o in others], weight, bias)
    assert error(total, plain_sum(others, weight.double(), bias.double())) < 1e-6

    x.requires_grad_()
    exact = weight.double().requires_grad_()
    normalised = F.batch_norm(x, None, None, training=True, eps=1e-5)
    sum((exact[i, :, None, None] * normalised * g).sum() for i, g in enumerate(others)).backward()
    mean, variance = native.moments(x.detach().float())
    totals = torch.stack([o.sum((0, 2, 3)) for o in others]).float()
    found = native.outputs_backward(
        [o.float() for o in others], x.detach().float(), weight, totals, mean, variance, 1e-5
    )
    assert error(found[0], x.grad) < 1e-5
    assert error(found[1], exact.grad) < 1e-5


def test_an_output_gets_the_gradients_of_all_its_readers():
    """Two outputs, two sums of different lengths, against autograd through PyTorch's norms."""
    torch.manual_seed(0)
    images = torch.randn(3, 6, 32, 4, 4, dtype=torch.float64)
    weights = [torch.randn(number, 32, dtype=torch.float64) for number in (2, 3)]
    bias, gradients = torch.randn(2, 32, dtype=torch.float64), torch.randn_like(images)

    def run(dtype, ours):
        leaves = [x.to(dtype).requires_grad_() for x in (*images, *weights, bias)]
        *outputs, first, second, b = leaves
        norms = [torch.nn.BatchNorm2d(32, affine=False).to(dtype) for _ in outputs]
        if ours:
            raw = native.RawOutputs([first, second])
            raw.add(outputs[0], norms[0])
            raw.add(outputs[1], norms[1])
            sums = [raw.weighted_sum(first, b[0])]
            raw.add(outputs[2], norms[2])
            sums.append(raw.weighted_sum(second, b[1]))
        else:
            seen = [norm(x) for norm, x in zip(norms, outputs, strict=True)]
            sums = [plain_sum(seen[:2], first, b[0]), plain_sum(seen, second, b[1])]
        sum((s * g.to(dtype)).sum() for s, g in zip(sums, gradients, strict=False)).backward()
        return [*sums, *(leaf.grad for leaf in leaves)]

    for found, expected in zip(run(torch.float32, True), run(torch.float64, False), strict=True):
        assert error(found, expected) < 1e-5


def test_a_sum_that_is_not_used_has_no_gradient():
    images = torch.randn(2, 2, 32, 2, 2)
    weights = [torch.ones(2, 32, requires_grad=True), torch.ones(3, 32, requires_grad=True)]
    raw = native.RawOutputs(weights)
    for image in images:
        raw.add(image, torch.nn.BatchNorm2d(32, affine=False))
    (raw.weighted_sum(weights[0], torch.zeros(32)) * images[0]).sum().backward()
    assert weights[0].grad.abs().sum() > 0
    assert weights[1].grad.abs().sum() == 0


def test_bf16_is_rounded_once_and_to_even():
    x = torch.tensor([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-9]).repeat(8).view(1, 32, 1, 1)
    one, zero = torch.ones(1, 32), torch.zeros(32)
    # As a sum: a product of bf16 numbers with a float32 weight that needs rounding.
    found = native.weighted_sum([torch.ones(1, 32, 1, 1).bfloat16()], x.view(1, 32) * one, zero)
    assert torch.equal(found, x.bfloat16())


def test_nan_is_not_hidden():
    x = torch.randn(2, 32, 4, 4)
    x[0, 3, 1, 1] = float("nan")
    found = native.norm_relu(x, AffineNorm(32), relu=True)
    assert found[:, 3].isnan().all()
    assert not found[:, 4].isnan().any()


def test_the_number_of_threads_changes_no_bit():
    before = torch.get_num_threads()
    x = torch.randn(16, 32, 8, 8).bfloat16()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(native.moments(x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for r in results for a, b in zip(r, results[0], strict=True))


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(2, 32, 4, 4, dtype=torch.float64),
        torch.zeros(2, 3, 4, 4),
        torch.zeros(1, 16, 3, 3),
        torch.zeros(2, 32, 4, 4, device="meta"),
    ],
    ids=["float64", "3 channels", "odd number of pixels", "another device"],
)
def test_what_the_kernels_do_not_support(x):
    assert not native.supports(x)


def test_a_compiler_that_fails_is_an_error_of_two_parts(monkeypatch, tmp_path):
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho no such option >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(Failure) as caught:
        native_library.library.__wrapped__()
    assert "no such option" in caught.value.problem
    assert "--fuse-sums" in caught.value.remedy


def test_a_missing_compiler_is_an_error_of_two_parts(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", str(tmp_path / "absent"))
    with pytest.raises(Failure) as caught:
        native_library.library.__wrapped__()
    assert str(tmp_path / "absent") in caught.value.problem


def test_a_library_that_cannot_be_loaded_is_compiled_anew(monkeypatch, tmp_path):
    native_library.library()
    working = next(native_library.cache_folder().glob("native-*.so"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def copy(_, target):
        shutil.copyfile(working, target)

    monkeypatch.setattr(native_library, "_compile", copy)
    native_library.library.__wrapped__()
    (cached,) = tmp_path.glob("delugeserve/native-*.so")
    whole = cached.read_bytes()
    cached.write_bytes(b"damaged")
    assert native_library.library.__wrapped__().norm_forward_float32
    assert cached.read_bytes() == whole


def test_parameters_of_another_type_are_refused():
    with pytest.raises(TypeError, match="bfloat16"):
        native.norm_relu(torch.randn(2, 32, 2, 2), AffineNorm(32).bfloat16(), relu=True)


def test_images_of_two_types_are_refused():
    images = [torch.zeros(1, 32, 1, 1), torch.zeros(1, 32, 1, 1).bfloat16()]
    with pytest.raises(TypeError, match="bfloat16"):
        native.weighted_sum(images, torch.ones(2, 32), torch.zeros(32))


@pytest.mark.parametrize("shortcut", ["1x1", "3x3"])
def test_a_baseline_computes_the_same_with_fused_norms(shortcut):
    spec = ModelSpec("tiny", Architecture("tiny", "cifar", (16, 32), (3, 2), shortcut), CIFAR10)
    exact = build_network(spec, seed=0).double()
    network = build_network(spec, seed=0)
    network.fuse_norms()
    assert any(isinstance(m, AffineNorm) and m.fused for m in network.modules())
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6)
    F.cross_entropy(network(images), labels).backward()
    F.cross_entropy(exact(images.double()), labels).backward()
    for (name, found), expected in zip(network.named_parameters(), exact.parameters(), strict=True):
        assert error(found.grad, expected.grad) < 1e-3, name


def test_compiled_layers_are_the_plain_ones():
    def step(prepare):
        network = build_network(
            ModelSpec("tiny", Architecture("tiny", "cifar", (8,), (2,)), CIFAR10), seed=0
        )
        prepare(network)
        logits = network(torch.ones(2, 3, 8, 8) + torch.arange(8.0))
        logits.square().sum().backward()
        return logits.detach(), network.stem.conv.weight.grad

    def prepare(network):
        network.fuse_sums("native")  # gives way to the compiled kernels
        network.compile_layers()

    for found, expected in zip(step(prepare), step(lambda _: None), strict=True):
        assert error(found, expected.double()) < 1e-4
