"""Fused cross-layer sums, which read each tensor once, forward and backward.

With one operation per input, a sum over L inputs writes L - 1 partial results, and its gradient
writes L tensors, which autograd adds to those of the other readers one by one. Here

- forward, a reader reads its L inputs and writes the sum: ``x_r = sum_i w_r[i] * h_i + b_r``;
- backward, an output waits for the gradients ``g_r`` of all its readers, reads them and itself, and
  writes ``dh_i = sum_r w_r[i] * g_r`` and ``dw_r[i] = sum_nhw g_r * h_i``.

For autograd these are two functions: :class:`_Spread` returns the products ``w_r[i] * h_i`` for all
readers of an output, and :class:`_Gather` adds up the products of one reader. The products are not
computed; the tensors in their place carry shapes forward and gradients backward.

The arithmetic is a weighted sum of up to eight matrices ``[M, C]``, where M counts the pixels of a
batch, and its gradient. ``plain`` kernels run everywhere. ``compiled`` kernels, which
``torch.compile`` generates in C++ or on a GPU in Triton, take one pass, accumulate in float32, and
are the same two for all numbers of inputs and all sizes.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from delugeserve.errors import UsageError

Kernels = Literal["plain", "compiled", "native"]

_WIDTH = 8  # matrices per pass of a compiled kernel
_LANES = 32  # rows of a multiple of this length fill the vectors of the compiled kernels


class SharedOutputs(list[Tensor]):
    """The normalised outputs of a block, which collect the gradients of all their readers.

    Args:
        weights: weights of the readers, ``[L, C]`` each, in the order in which they read. A reader
            sums all outputs so far, so that no two readers have the same L.
        kernels: ``plain`` or ``compiled``.
    """

    def __init__(self, weights: Sequence[Tensor], kernels: Kernels) -> None:
        super().__init__()
        self._kernels = kernels
        self._rows = {len(weight): weight.unbind() for weight in weights}
        self._products: dict[int, list[Tensor]] = {len(weight): [] for weight in weights}

    def append(self, output: Tensor) -> None:
        """Add an output ``[N, C, H, W]``."""
        index = len(self)
        super().append(output)
        readers = [number for number in self._rows if number > index]
        weight = torch.stack([self._rows[number][index] for number in readers])
        products = _Spread.apply(output, weight, self._kernels)  # type: ignore[no-untyped-call]
        for number, product in zip(readers, products, strict=True):
            self._products[number].append(product)

    def copy(self) -> SharedOutputs:
        """Return a copy with the outputs so far, for the same readers."""
        copy = SharedOutputs([], self._kernels)
        copy.extend(self)
        copy._rows, copy._products = self._rows, self._products
        return copy

    def weighted_sum(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Sum all L outputs so far with weights ``[L, C]`` and a bias ``[C]`` (Eq. 1)."""
        total: Tensor = _Gather.apply(  # type: ignore[no-untyped-call]
            list(self), weight.detach(), bias, self._kernels, *self._products[len(self)]
        )
        return total


class _Spread(torch.autograd.Function):
    """Maps an output and its R readers' weights ``[R, C]`` to R products that are not computed."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, weight: Tensor, kernels: Kernels) -> tuple[Tensor, ...]:
        ctx.save_for_backward(output, weight)
        ctx.kernels = kernels
        return tuple(output.new_empty(()).expand(output.shape) for _ in weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        output, weight = ctx.saved_tensors
        gradient, weight_gradient = weighted_sum_gradients(output, gradients, weight, ctx.kernels)
        return gradient, weight_gradient, None


class _Gather(torch.autograd.Function):
    """Adds up the products of one reader and its bias ``[C]``."""

    @staticmethod
    def forward(
        ctx: Any,
        outputs: Sequence[Tensor],
        weight: Tensor,
        bias: Tensor,
        kernels: Kernels,
        *products: Tensor,
    ) -> Tensor:
        ctx.num_products = len(products)
        ctx.bias_dtype = bias.dtype
        return weighted_sum(outputs, weight, bias, kernels)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        bias_gradient = gradient.sum((0, 2, 3)).to(ctx.bias_dtype)
        return None, None, bias_gradient, None, *(gradient for _ in range(ctx.num_products))


def weighted_sum(
    inputs: Sequence[Tensor], weight: Tensor, bias: Tensor, kernels: Kernels
) -> Tensor:
    """Compute ``sum_i weight[i, c] * inputs_i[c] + bias[c]`` (Eq. 1), without a gradient.

    Args:
        inputs: L tensors ``[N, C, H, W]``.
        weight: ``[L, C]``.
        bias: ``[C]``.
        kernels: ``plain`` or ``compiled``.

    Returns:
        The sum, ``[N, C, H, W]``, in the dtype of the inputs.
    """
    if kernels == "plain":
        return plain_sum(inputs, weight, bias)
    fold = _folding(inputs[0])
    matrices = [_as_matrix(x, fold) for x in inputs]
    weight, bias = weight.repeat(1, fold), bias.repeat(fold)
    total: list[Tensor] = []
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        for part in _parts(len(matrices)):
            terms, factors = _padded([*total, *matrices[part]], weight[part])
            total = [_compiled_sum()(terms, factors, bias)]
            bias = torch.zeros_like(bias)
    return _as_images(total[0], inputs[0])


def weighted_sum_gradients(
    input_: Tensor, gradients: Sequence[Tensor], weight: Tensor, kernels: Kernels
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of R weighted sums with respect to one input and its weights.

    Args:
        input_: ``[N, C, H, W]``; sum r has it with the weight ``weight[r, c]``.
        gradients: gradients of the R sums, ``[N, C, H, W]`` each.
        weight: ``[R, C]``.
        kernels: ``plain`` or ``compiled``.

    Returns:
        The gradients of ``input_``, ``[N, C, H, W]``, and of ``weight``, ``[R, C]``.
    """
    if kernels == "plain":
        return _plain_gradients(input_, gradients, weight)
    fold = _folding(input_)
    matrix = _as_matrix(input_, fold)
    matrices = [_as_matrix(g, fold) for g in gradients]
    folded = weight.repeat(1, fold)
    total: list[Tensor] = []
    rows = []
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        for part in _parts(len(matrices)):
            terms, factors = _padded([*total, *matrices[part]], folded[part])
            first = len(total)
            gradient, products = _compiled_gradients()(matrix, terms, factors)
            rows.append(products[first : first + len(matrices[part])])
            total = [gradient]
    weight_gradient = torch.cat(rows).view(len(weight), fold, -1).sum(1).to(weight.dtype)
    return _as_images(total[0], input_), weight_gradient


def plain_sum(inputs: Sequence[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """Compute the weighted sum (Eq. 1) with one differentiable operation per input.

    Args:
        inputs: L tensors ``[N, C, H, W]``.
        weight: ``[L, C]``.
        bias: ``[C]``.

    Returns:
        The sum, ``[N, C, H, W]``, in the dtype of the inputs.
    """
    dtype = inputs[0].dtype
    total = bias.to(dtype)[:, None, None]
    for x, w in zip(inputs, weight.to(dtype)[:, :, None, None], strict=True):
        # addcmul saves only x and w for the backward pass, and all readers share x.
        total = torch.addcmul(total, x, w)
    return total


def _plain_gradients(
    input_: Tensor, gradients: Sequence[Tensor], weight: Tensor
) -> tuple[Tensor, Tensor]:
    total = torch.zeros_like(input_)
    rows = []
    for g, w in zip(gradients, weight.to(input_.dtype)[:, :, None, None], strict=True):
        total.addcmul_(g, w)
        rows.append((g * input_).sum((0, 2, 3), dtype=weight.dtype))
    return total, torch.stack(rows)


def _sum_kernel(terms: Sequence[Tensor], factors: Tensor, bias: Tensor) -> Tensor:
    """Sum matrices ``[M, C]`` with weights."""
    total = bias
    for x, w in zip(terms, factors, strict=True):
        total = total + w * _widen(x)
    return total.to(terms[0].dtype)


def _gradients_kernel(
    input_: Tensor, terms: Sequence[Tensor], factors: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum gradients ``[M, C]`` with weights, and their products with the input over M."""
    total = torch.zeros_like(_widen(input_))
    products = []
    for g, w in zip(terms, factors, strict=True):
        total = total + w * _widen(g)
        products.append((_widen(g) * _widen(input_)).sum(0))
    return total.to(input_.dtype), torch.stack(products)


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


@functools.cache
def _compiled_sum() -> Callable[..., Tensor]:
    return torch.compile(_sum_kernel, dynamic=True)


@functools.cache
def _compiled_gradients() -> Callable[..., tuple[Tensor, Tensor]]:
    return torch.compile(_gradients_kernel, dynamic=True)


def _parts(count: int) -> Iterator[slice]:
    """Divide inputs into passes; all but the first also read the sum so far."""
    start, stop = 0, _WIDTH
    while start < count:
        yield slice(start, min(stop, count))
        start, stop = stop, stop + _WIDTH - 1


def _padded(terms: list[Tensor], weight: Tensor) -> tuple[list[Tensor], Tensor]:
    """Pad a pass to its width: weight 1 for the sum so far, 0 for repetitions of the last term."""
    carried = len(terms) - len(weight)
    missing = _WIDTH - len(terms)
    factors = nn.functional.pad(weight, (0, 0, carried, missing))
    factors[:carried] = 1
    # Separate tensors, or the kernel would be compiled again for each number of repetitions.
    return [*terms, *(terms[-1].data for _ in range(missing))], factors


def _folding(x: Tensor) -> int:
    """Return how many pixels of ``[N, C, H, W]`` form a row of a multiple of ``_LANES`` numbers."""
    fold = _LANES // math.gcd(_LANES, x.shape[1])
    return fold if x.numel() // x.shape[1] % fold == 0 else 1


def _as_matrix(x: Tensor, fold: int) -> Tensor:
    """Reshape ``[N, C, H, W]`` to ``[N * H * W / fold, fold * C]``; a view if channels-last."""
    matrix = x.permute(0, 2, 3, 1).reshape(-1, fold * x.shape[1]).contiguous()
    # Detached from views and gradients, for which the kernels would be compiled again.
    return matrix.data


def _as_images(matrix: Tensor, like: Tensor) -> Tensor:
    n, c, h, w = like.shape
    return matrix.view(n, h, w, c).permute(0, 3, 1, 2)


def best_kernels() -> Kernels:
    """Return the fastest kernels for this machine."""
    return "native" if sys.platform == "linux" and not torch.cuda.is_available() else "compiled"


def require_compiler() -> None:
    """Check that there is a compiler for the kernels: of C for a GPU, else of C++.

    Raises:
        UsageError: there is no compiler.
    """
    if torch.cuda.is_available():  # Triton compiles the code that launches its kernels
        language, variable, usual = "C", "CC", ["gcc", "clang"]
    else:
        gnu_or_clang = "clang++" if sys.platform == "darwin" else "g++"
        language, variable, usual = "C++", "CXX", [gnu_or_clang]
    named = os.environ.get(variable)
    compilers = [named] if named else usual
    if not any(map(shutil.which, compilers)):
        raise UsageError(
            f"Compiled kernels need a {language} compiler, but there is no"
            f" {' or '.join(compilers)}.",
            f"Install one, set {variable} to another, or omit --compile and --fuse-sums.",
        )
