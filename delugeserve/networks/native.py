"""BatchNorm with ReLU, and cross-layer sums of normalised outputs, compiled for this processor.

Training on a CPU spends as much time in these as in convolutions, all of it in moving memory. The
kernels in ``native.cpp`` move less than PyTorch's:

- BatchNorm and ReLU are one operation, and the backward pass computes the ReLU's mask again;
- the outputs of a block are not normalised: the normalisation is a scale and a shift, which join
  the weights and the bias of each sum that reads the output;
- backward, an output reads the gradients of all its readers once. What the normalisation's gradient
  needs of their sum follows from per-channel totals.

A compiler makes a library of them; see :mod:`delugeserve.networks.native_library`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from delugeserve.networks.native_library import DTYPES, call

_LANES = 32  # a row of the kernels' matrices is a multiple of this length


def supports(x: Tensor) -> bool:
    """Return whether the kernels can process images ``[N, C, H, W]``."""
    return x.device.type == "cpu" and x.dtype in DTYPES and _folding(x) > 0


def norm_relu(x: Tensor, norm: nn.BatchNorm2d, *, relu: bool) -> Tensor:
    """Apply a BatchNorm in training mode, which updates its statistics, and a ReLU.

    Args:
        x: ``[N, C, H, W]``, of a kind that :func:`supports` accepts.
        norm: with affine weight and bias.
        relu: whether there is a ReLU.
    """
    result, mean, variance = _NormRelu.apply(  # type: ignore[no-untyped-call]
        x, norm.weight, norm.bias, norm.eps, relu
    )
    track(norm, mean, variance, x.numel() // x.shape[1])
    output: Tensor = result
    return output


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel of ``[N, C, H, W]``, float32 ``[C]`` each."""
    matrix, sizes = _as_matrix(x.detach())
    mean, variance = (torch.empty(x.shape[1]) for _ in range(2))
    call("norm_forward", x.dtype)(
        _pointer(matrix), *sizes, 0.0, None, None, 0, None, _pointer(mean), _pointer(variance)
    )
    return mean, variance


@torch.no_grad()
def track(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Update a norm's running statistics with those of ``count`` numbers per channel."""
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    if norm.momentum and norm.running_mean is not None and norm.running_var is not None:
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / max(1, count - 1)), norm.momentum)


def weighted_sum(inputs: Sequence[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """Compute ``sum_i weight[i, c] * inputs_i[c] + bias[c]``, without a gradient.

    Args:
        inputs: L tensors ``[N, C, H, W]``.
        weight: float32 ``[L, C]``.
        bias: float32 ``[C]``.
    """
    matrices = [_as_matrix(x.detach())[0] for x in inputs]
    sizes = _as_matrix(inputs[0])[1]
    total = torch.empty_like(inputs[0], memory_format=torch.channels_last)
    weight, bias = weight.contiguous(), bias.contiguous()
    call("weighted_sum", total.dtype)(
        _pointers(matrices),
        len(matrices),
        *sizes,
        _floats(weight),
        _floats(bias),
        _pointer(total),
    )
    return total


def outputs_backward(
    gradients: Sequence[Tensor],
    x: Tensor,
    weight: Tensor,
    totals: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of R sums with respect to one output, which they read normalised.

    Args:
        gradients: gradients of the R sums, ``[N, C, H, W]`` each.
        x: the output, not normalised.
        weight: its weights in the sums, float32 ``[R, C]``.
        totals: of the gradients' channels, float32 ``[R, C]``.
        mean: of the output's channels, float32 ``[C]``.
        variance: of the output's channels, float32 ``[C]``.
        eps: added to the variance.

    Returns:
        The gradients of ``x`` and of ``weight``.
    """
    matrices = [_as_matrix(gradient)[0] for gradient in gradients]
    matrix, sizes = _as_matrix(x)
    result = torch.empty_like(x, memory_format=torch.channels_last)
    weight = weight.contiguous()
    weight_gradient = torch.empty_like(weight)
    call("outputs_backward", x.dtype)(
        _pointers(matrices),
        len(matrices),
        _pointer(matrix),
        *sizes,
        eps,
        *map(_floats, (weight, totals, mean, variance)),
        _pointer(result),
        _floats(weight_gradient),
    )
    return result, weight_gradient


class RawOutputs(list[Tensor]):
    """The outputs of a block before their normalisation, which joins the sums that read them.

    Args:
        weights: weights of the readers, ``[L, C]`` each, as of
            :class:`~delugeserve.networks.fused.SharedOutputs`.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self._rows = {len(weight): weight.unbind() for weight in weights}
        self._products: dict[int, list[Tensor]] = {len(weight): [] for weight in weights}
        self._statistics: list[tuple[Tensor, Tensor]] = []  # factor and mean of each output
        self._totals: dict[int, Tensor] = {}  # of the gradients of each reader, by its L

    def add(self, output: Tensor, norm: nn.BatchNorm2d) -> None:
        """Add an output ``[N, C, H, W]``, and the norm that its readers see it through."""
        index = len(self)
        super().append(output)
        mean, variance = moments(output)
        track(norm, mean, variance, output.numel() // output.shape[1])
        self._statistics.append(((variance + norm.eps).rsqrt(), mean))
        readers = [number for number in self._rows if number > index]
        weight = torch.stack([self._rows[number][index] for number in readers])
        products = _Spread.apply(  # type: ignore[no-untyped-call]
            output, weight, mean, variance, norm.eps, readers, self._totals
        )
        for number, product in zip(readers, products, strict=True):
            self._products[number].append(product)

    def copy(self) -> RawOutputs:
        """Return a copy with the outputs so far, for the same readers."""
        copy = RawOutputs([])
        copy.extend(self)
        copy._rows, copy._products, copy._totals = self._rows, self._products, self._totals
        copy._statistics = self._statistics[: len(self)]
        return copy

    def weighted_sum(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Sum all L outputs so far, normalised, with weights ``[L, C]`` and a bias ``[C]``."""
        factors, means = (torch.stack(rows) for rows in zip(*self._statistics, strict=True))
        total: Tensor = _Gather.apply(  # type: ignore[no-untyped-call]
            list(self),
            weight.detach() * factors,
            means,
            bias,
            self._totals,
            *self._products[len(self)],
        )
        return total


class _Spread(torch.autograd.Function):
    """Maps an output to one product per reader; as :class:`.fused._Spread`, with its norm."""

    @staticmethod
    def forward(
        ctx: Any,
        output: Tensor,
        weight: Tensor,
        mean: Tensor,
        variance: Tensor,
        eps: float,
        readers: Sequence[int],
        totals: Mapping[int, Tensor],
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(output, weight, mean, variance)
        ctx.eps, ctx.readers, ctx.totals = eps, readers, totals
        ctx.set_materialize_grads(False)
        return tuple(output.new_empty(()).expand(output.shape) for _ in weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        output, weight, mean, variance = ctx.saved_tensors
        # A sum that the loss does not depend on has no gradient.
        rows = [row for row, gradient in enumerate(gradients) if gradient is not None]
        if not rows:
            return (None,) * 7
        totals = torch.stack([ctx.totals[ctx.readers[row]] for row in rows])
        result, found = outputs_backward(
            [gradient for gradient in gradients if gradient is not None],
            output,
            weight[rows],
            totals,
            mean,
            variance,
            ctx.eps,
        )
        weight_gradient = torch.zeros_like(weight)
        weight_gradient[rows] = found
        return result, weight_gradient, *(None,) * 5


class _Gather(torch.autograd.Function):
    """Adds up the products of one reader and its bias ``[C]``; as :class:`.fused._Gather`."""

    @staticmethod
    def forward(
        ctx: Any,
        outputs: Sequence[Tensor],
        weight: Tensor,
        means: Tensor,
        bias: Tensor,
        totals: dict[int, Tensor],
        *products: Tensor,
    ) -> Tensor:
        ctx.num_products, ctx.totals = len(products), totals
        return weighted_sum(outputs, weight, bias - (weight * means).sum(0))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        count = gradient.numel() // gradient.shape[1]
        bias_gradient = moments(gradient)[0] * count
        # All outputs that this sum reads get the gradient after this.
        ctx.totals[ctx.num_products] = bias_gradient
        return None, None, None, bias_gradient, None, *(gradient for _ in range(ctx.num_products))


class _NormRelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, relu: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        matrix, sizes = _as_matrix(x)
        result = torch.empty_like(x, memory_format=torch.channels_last)
        mean, variance = (torch.empty(x.shape[1]) for _ in range(2))
        call("norm_forward", x.dtype)(
            _pointer(matrix),
            *sizes,
            eps,
            _floats(weight),
            _floats(bias),
            int(relu),
            *map(_pointer, (result, mean, variance)),
        )
        ctx.save_for_backward(x, weight, bias, mean, variance)
        ctx.eps, ctx.relu = eps, relu
        ctx.mark_non_differentiable(mean, variance)
        return result, mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, variance = ctx.saved_tensors
        matrix, sizes = _as_matrix(x)
        gradients, _ = _as_matrix(gradient)
        result = torch.empty_like(x, memory_format=torch.channels_last)
        weight_gradient, bias_gradient = torch.empty_like(weight), torch.empty_like(bias)
        call("norm_backward", x.dtype)(
            _pointer(gradients),
            _pointer(matrix),
            *sizes,
            ctx.eps,
            *map(_floats, (weight, bias, mean, variance)),
            int(ctx.relu),
            *map(_pointer, (result, weight_gradient, bias_gradient)),
        )
        return result, weight_gradient, bias_gradient, None, None


def _folding(x: Tensor) -> int:
    """Return how many pixels form a row of a multiple of ``_LANES`` numbers; 0 if none do."""
    channels, pixels = x.shape[1], x.numel() // x.shape[1]
    folds = (fold for fold in (1, 2, 4, 8) if channels * fold % _LANES == pixels % fold == 0)
    return next(folds, 0)


def _as_matrix(x: Tensor) -> tuple[Tensor, tuple[int, int, int, int]]:
    """Return channels-last memory of images, and rows, channels, pixels per row and threads."""
    fold = _folding(x)
    x = x.contiguous(memory_format=torch.channels_last)
    rows = x.numel() // x.shape[1] // fold
    return x, (rows, x.shape[1], fold, torch.get_num_threads())


def _pointer(x: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data_ptr())


def _floats(x: Tensor) -> ctypes.c_void_p:
    """Return the address of parameters or statistics, which the kernels read as float32.

    Raises:
        TypeError: they are of another type, or not contiguous.
    """
    if x.dtype != torch.float32 or not x.is_contiguous():
        raise TypeError(f"expected contiguous float32 numbers, got {x.dtype}, {x.stride()}")
    return _pointer(x)


def _pointers(tensors: Sequence[Tensor]) -> Any:
    """Return the addresses of images of one type and shape.

    Raises:
        TypeError: they differ in type or shape.
    """
    if len({(x.dtype, x.shape) for x in tensors}) != 1:
        raise TypeError(f"expected equal images, got {[(x.dtype, *x.shape) for x in tensors]}")
    return (ctypes.c_void_p * len(tensors))(*(x.data_ptr() for x in tensors))
