"""The building blocks of a DelugeNet: cross-layer sum, composite layer, block and transition.

Equations and figures refer to Kuen et al., arXiv 1611.05552. Convolutions have no bias.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from delugeserve.networks import native
from delugeserve.networks.fused import Kernels, SharedOutputs, plain_sum
from delugeserve.networks.native import RawOutputs

M = TypeVar("M", bound=nn.Module)


def module_list(modules: Iterable[M]) -> Sequence[M]:
    """Return an ``nn.ModuleList``, typed as a sequence of its modules."""
    return cast("Sequence[M]", nn.ModuleList(modules))


class CrossLayerSum(nn.Module):
    """Cross-layer depthwise convolution (Eq. 1): a per-channel weighted sum of earlier outputs.

    ``x[c] = sum_i (w[i, c] * h_i[c] + b[i, c])``

    Inputs must be normalised. The authors' code batch-normalises each input in each reader, with an
    affine weight and bias of that reader. The statistics of an output are the same for all of its
    readers, so :class:`Block` normalises it once, and only weight and bias remain here. That is the
    same function with the same gradients and parameters, in O(L) normalisations instead of O(L^2).

    Args:
        num_inputs: L, the number of earlier outputs.
        channels: C, the channels of each output.
    """

    def __init__(self, num_inputs: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((num_inputs, channels), 1.0 / num_inputs))
        self.bias = nn.Parameter(torch.zeros(num_inputs, channels))

    def forward(self, normalised: Sequence[Tensor]) -> Tensor:
        """Sum L normalised outputs ``[N, C, H, W]`` into one tensor of that shape."""
        bias = self.bias.sum(dim=0)
        if isinstance(normalised, SharedOutputs | RawOutputs):
            return normalised.weighted_sum(self.weight, bias)
        return plain_sum(normalised, self.weight, bias)


class OutputNorm(nn.BatchNorm2d):
    """BatchNorm without affine that saves its output for the backward pass instead of its input.

    The gradient needs the normalised input only. That is the output, which the sums that read it
    save as well, so it takes no extra memory.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of ``[N, C, H, W]``."""
        # torch.compile decides for the whole network what is saved and what is recomputed.
        if not self.training or torch.compiler.is_compiling():
            return super().forward(x)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        normalised: Tensor = _Normalise.apply(  # type: ignore[no-untyped-call]
            x, self.running_mean, self.running_var, self.momentum, self.eps
        )
        return normalised


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, variance: Tensor, momentum: float, eps: float
    ) -> Tensor:
        normalised, _, scale = torch.native_batch_norm(
            x, None, None, mean, variance, True, momentum, eps
        )
        ctx.save_for_backward(normalised, scale)
        return normalised

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        normalised, scale = ctx.saved_tensors
        # The gradient of a BatchNorm of an input with mean 0 and standard deviation 1 whose weight
        # is the factor that normalised the original input.
        zeros, ones = torch.zeros_like(scale), torch.ones_like(scale)
        result, _, _ = torch.ops.aten.native_batch_norm_backward(
            gradient, normalised, scale, None, None, zeros, ones, True, 0.0, [True, False, False]
        )
        return result, None, None, None, None


class AffineNorm(nn.BatchNorm2d):
    """BatchNorm whose training steps on a CPU can use the kernels of :mod:`.native`.

    Args:
        channels: C.

    Attributes:
        fused: whether they do.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.fused: bool = False


def _normalise(norm: nn.BatchNorm2d, x: Tensor, *, relu: bool = True) -> Tensor:
    """Apply a BatchNorm and a ReLU to ``[N, C, H, W]``."""
    if (
        isinstance(norm, AffineNorm)  # it is another class if processes share their statistics
        and norm.fused
        and norm.training
        and not torch.compiler.is_compiling()
        and native.supports(x)
    ):
        return native.norm_relu(x, norm, relu=relu)
    normalised: Tensor = norm(x)
    return torch.relu(normalised) if relu else normalised


class CompositeLayer(nn.Module):
    """Bottleneck (figure 1): BN-ReLU-Conv1x1, BN-ReLU-Conv3x3, BN-ReLU-Conv1x1.

    Args:
        in_channels: channels of the input.
        width: channels of the two inner convolutions; the output has ``2 * width``.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.norm1 = AffineNorm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.norm2 = AffineNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm3 = AffineNorm(width)
        self.conv3 = nn.Conv2d(width, 2 * width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, in_channels, H, W]`` to ``[N, 2 * width, H, W]``."""
        return self.widen(self.narrow(x))

    def narrow(self, x: Tensor) -> Tensor:
        """Apply the first BN-ReLU-Conv1x1: ``[N, in_channels, H, W]`` to ``[N, width, H, W]``."""
        x = self.conv1(_normalise(self.norm1, x))
        return x

    def widen(self, x: Tensor) -> Tensor:
        """Apply the other two convolutions: ``[N, width, H, W]`` to ``[N, 2 * width, H, W]``."""
        x = self.conv2(_normalise(self.norm2, x))
        x = self.conv3(_normalise(self.norm3, x))
        return x


class Block(nn.Module):
    """Composite layers, each of which reads a :class:`CrossLayerSum` of all earlier outputs.

    A layer with a single earlier output reads that output directly.

    Args:
        in_channels: channels of the block's input.
        width: base width; every output has ``2 * width`` channels.
        num_layers: number of composite layers.
        input_is_output: whether the input counts as the first output, ``h_0``. False only for the
            first block of a CIFAR network, whose stem has fewer channels than the outputs.

    Attributes:
        num_outputs: number of outputs, the input included if it counts as one.
        compiled: whether each layer, with the normalisation of its output, is one compiled graph.
        checkpoints: whether a sum, its BatchNorm and its ReLU are recomputed in the backward pass
            instead of saved.
        readers: the sums of this block and of the transition or head after it, if they are fused.
        kernels: kernels of the fused sums.
    """

    def __init__(
        self, in_channels: int, width: int, num_layers: int, *, input_is_output: bool
    ) -> None:
        super().__init__()
        channels = 2 * width
        self.input_is_output: bool = input_is_output
        self.num_outputs: int = num_layers + input_is_output
        self.checkpoints: bool = False
        self.compiled: bool = False
        self.readers: tuple[CrossLayerSum, ...] = ()
        self.kernels: Kernels = "plain"
        self.norms = module_list(OutputNorm(channels) for _ in range(self.num_outputs))
        self.layers = module_list(
            CompositeLayer(in_channels if index == 0 else channels, width)
            for index in range(num_layers)
        )
        # One sum for each layer with more than one earlier output, in the order of the layers.
        self.sums = module_list(
            CrossLayerSum(num_inputs, channels) for num_inputs in range(2, self.num_outputs)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map ``[N, in_channels, H, W]`` to normalised outputs ``[N, 2 * width, H, W]``."""
        outputs = self._start(x)
        sums = iter(self.sums)
        norms = iter(self.norms)
        if self.input_is_output:
            _add(outputs, x, next(norms))
        if self.compiled and not torch.compiler.is_compiling():
            for layer in self.layers:
                if len(outputs) > 1:
                    x = next(sums)(outputs)
                x, normalised = compiled_layer()(layer, next(norms), x)
                outputs.append(normalised)
            return outputs
        for layer in self.layers:
            if len(outputs) > 1:
                narrowed = self._read(next(sums), layer, outputs)
            else:
                narrowed = layer.narrow(x)
            x = layer.widen(narrowed)
            _add(outputs, x, next(norms))
        return outputs

    def _start(self, x: Tensor) -> list[Tensor]:
        """Return an empty list of outputs for the block's input."""
        if not self.readers or torch.compiler.is_compiling():
            return []
        weights = [reader.weight for reader in self.readers]
        if self.kernels != "native":
            return SharedOutputs(weights, self.kernels)
        if self.compiled:
            return SharedOutputs(weights, "compiled")
        own = all(isinstance(norm, OutputNorm) for norm in self.norms)
        return RawOutputs(weights) if own and self.training and native.supports(x) else []

    def _read(self, sum_: CrossLayerSum, layer: CompositeLayer, outputs: list[Tensor]) -> Tensor:
        """Apply the sum of all outputs so far and the first convolution of a layer."""
        if not (self.checkpoints and torch.is_grad_enabled()) or torch.compiler.is_compiling():
            return layer.narrow(sum_(outputs))
        # The convolution is inside because it saves the output of the ReLU. It is not recomputed:
        # recomputation stops as soon as the last saved tensor is restored.
        so_far = outputs.copy()
        narrowed: Tensor = checkpoint(
            lambda: layer.narrow(sum_(so_far)),
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), _statistics_kept(layer.norm1)),
        )
        return narrowed


@functools.cache
def compiled_layer() -> Callable[[CompositeLayer, OutputNorm, Tensor], tuple[Tensor, Tensor]]:
    """Return a compiled function that maps a layer's input to its output, raw and normalised.

    Parameters are inputs of the compiled graph, so that all layers of one shape share one: it is
    compiled about twice per block, however deep the network is.
    """
    torch._dynamo.config.recompile_limit = 64

    def apply(layer: CompositeLayer, norm: OutputNorm, x: Tensor) -> tuple[Tensor, Tensor]:
        x = layer.widen(layer.narrow(x))
        return x, norm(x)

    return torch.compile(apply, dynamic=False)


def _add(outputs: list[Tensor], x: Tensor, norm: nn.BatchNorm2d) -> None:
    if isinstance(outputs, RawOutputs):
        outputs.add(x, norm)
    else:
        outputs.append(norm(x))


@contextmanager
def _statistics_kept(norm: nn.BatchNorm2d) -> Iterator[None]:
    """Keep the running statistics unchanged while the norm is in training mode."""
    momentum, count = norm.momentum, norm.num_batches_tracked
    norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        norm.momentum, norm.num_batches_tracked = momentum, count


class Transition(nn.Module):
    """Block transition (figure 2): cross-layer sum of all outputs, BN, Conv3x3 of stride 2.

    Args:
        num_inputs: number of outputs of the block before it.
        in_channels: channels of each of these outputs.
        out_channels: channels of the outputs of the next block.
    """

    def __init__(self, num_inputs: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.sum = CrossLayerSum(num_inputs, in_channels)
        self.norm = AffineNorm(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False)

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """Map normalised outputs ``[N, C, H, W]`` to ``[N, out_channels, H / 2, W / 2]``."""
        out: Tensor = self.conv(_normalise(self.norm, self.sum(outputs), relu=False))
        return out


class Head(nn.Module):
    """Cross-layer sum of the last block, BN, ReLU, global average pooling, Linear.

    Args:
        num_inputs: number of outputs of the last block.
        channels: channels of each of these outputs.
        num_classes: number of logits.
    """

    def __init__(self, num_inputs: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.sum = CrossLayerSum(num_inputs, channels)
        self.norm = AffineNorm(channels)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """Map normalised outputs ``[N, C, H, W]`` to logits ``[N, num_classes]``."""
        features = _normalise(self.norm, self.sum(outputs)).mean(dim=(2, 3))
        logits: Tensor = self.linear(features)
        return logits
