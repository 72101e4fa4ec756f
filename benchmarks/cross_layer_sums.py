"""The cross-layer sums of a network's blocks, forward and backward, as work to be timed in bytes.

A sum does one multiplication and one addition for each number that it reads, so the memory is all
that can bound it. What it must move at the least is every input once and its result once; that,
over the time it takes, is its GB/s, and a large copy is what the memory can do.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import common
import torch
from torch import Tensor

from delugeserve.errors import Failure, UsageError
from delugeserve.networks.fused import (
    Kernels,
    plain_sum,
    require_compiler,
    weighted_sum,
    weighted_sum_gradients,
)
from delugeserve.zoo import ModelSpec

SPAN = 1 << 28  # bytes; tensors that take turns span more than the cache of any GPU up to Blackwell

_AGREE = 0.02  # relative; bf16 has eight bits of fraction
_SLEEP = 1 << 24  # cycles, about 10 ms: the GPU waits while the host queues work
_PATIENCE = 3


@dataclass(frozen=True)
class Work:
    """Calls that each have tensors of their own, so that nothing is still in a cache.

    Attributes:
        calls: each returns what it computes.
        num_bytes: that all of them together must read and write at the least.
    """

    calls: Sequence[Callable[[], Any]]
    num_bytes: int

    def run(self) -> None:
        """Make all calls."""
        for call in self.calls:
            call()


def copy_work(device: str, num_bytes: int) -> Work:
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Work([partial(target.copy_, source)], 2 * num_bytes)


def block_shapes(spec: ModelSpec, batch: int) -> Iterator[tuple[tuple[int, int, int, int], int]]:
    """The outputs' shape ``[N, C, H, W]`` and their number, for each block of an ImageNet model."""
    size = spec.dataset.image_size // 4  # behind the stem
    for width, layers in zip(spec.widths, spec.layers, strict=True):
        yield (batch, 2 * width, size, size), layers + 1
        size //= 2


def available_kernels(device: str) -> tuple[Kernels, ...]:
    """``plain``, and ``compiled`` if that is possible here; says why if not."""
    try:
        require_compiler()
    except UsageError as error:
        common.out.print(f"compiled kernels: left out. {error}")
        return ("plain",)
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        common.out.print("compiled kernels: left out. Triton is not installed: pip install triton")
        return ("plain",)
    return ("plain", "compiled")


def draw_tensors(shape: Sequence[int], fewest: int, span: int, device: str) -> list[Tensor]:
    """Channels-last bf16 tensors, at least so many, of so many bytes together."""
    torch.manual_seed(0)
    size = 2 * torch.Size(shape).numel()
    draw = partial(torch.randn, *shape, dtype=torch.bfloat16, device=device)
    return [
        draw().contiguous(memory_format=torch.channels_last)
        for _ in range(max(fewest, -(-span // size)))
    ]


def forward_work(
    tensors: Sequence[Tensor], number: int, kernels: Sequence[Kernels]
) -> dict[str, Work]:
    """The weighted sum of ``number`` tensors; with plain kernels it is the chain of addcmul."""
    weight, bias = _weight(number, tensors[0])
    groups = list(_groups(tensors, number))
    num_bytes = len(groups) * (number + 1) * tensors[0].nbytes
    works = {
        name: Work([partial(weighted_sum, x, weight, bias, name) for x in groups], num_bytes)
        for name in kernels
    }
    _require_agreement(works, plain_sum([x.float() for x in groups[0]], weight, bias))
    return works


def backward_work(
    tensors: Sequence[Tensor], number: int, kernels: Sequence[Kernels]
) -> dict[str, Work]:
    """The gradients of an output that ``number`` sums read, and of their weights for it."""
    weight, bias = _weight(number, tensors[0])
    groups = list(_groups(tensors, number + 1))
    num_bytes = len(groups) * (number + 2) * tensors[0].nbytes
    works = {"autograd": Work([_autograd(x, g, weight, bias) for x, *g in groups], num_bytes)}
    for name in kernels:
        calls = [partial(weighted_sum_gradients, x, g, weight, name) for x, *g in groups]
        works[name] = Work(calls, num_bytes)
    x, *gradients = (tensor.float() for tensor in groups[0])
    _require_agreement(works, *weighted_sum_gradients(x, gradients, weight, "plain"))
    return works


def gigabytes_per_s(
    work: Work, clock: Callable[[Callable[[], None]], float], seconds: float
) -> float:
    """Time the calls as often as there is time for, once untimed before."""
    work.run()
    count, total, start = 0, 0.0, time.perf_counter()
    while not count or time.perf_counter() - start < seconds:
        total += clock(work.run)
        count += 1
    return 1e-9 * count * work.num_bytes / total


def seconds_on_cpu(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def seconds_on_gpu(run: Callable[[], None]) -> float:
    """What the GPU takes if its work is queued already: the time of Python is not in it."""
    sleep = _SLEEP
    for _ in range(_PATIENCE):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        torch.cuda._sleep(sleep)
        begin.record()
        run()
        end.record()
        queued_in_time = not begin.query()
        torch.cuda.synchronize()
        if queued_in_time:
            break
        sleep *= 4
    else:
        common.talk.print("[yellow]warning:[/] the GPU waited for the host; it can do better.")
    return 1e-3 * begin.elapsed_time(end)


CLOCKS = {"cpu": seconds_on_cpu, "cuda": seconds_on_gpu}


def _groups(tensors: Sequence[Tensor], number: int) -> Iterator[list[Tensor]]:
    """Groups of so many tensors; all are used once before any is used again."""
    for start in range(0, len(tensors), number):
        yield [tensors[place % len(tensors)] for place in range(start, start + number)]


def _weight(number: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Weights ``[number, C]`` and bias ``[C]`` in float32, as in training under autocast."""
    weight = torch.rand(number, like.shape[1], device=like.device) + 0.5
    return weight, weight.mean(dim=0)


def _autograd(
    x: Tensor, gradients: Sequence[Tensor], weight: Tensor, bias: Tensor
) -> Callable[[], tuple[Tensor, ...]]:
    """The backward pass of a chain of addcmul, as autograd does it."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    sums = [plain_sum([x], row[None], bias) for row in weight]
    return partial(torch.autograd.grad, sums, (x, weight), gradients, retain_graph=True)


def _require_agreement(works: dict[str, Work], *expected: Tensor) -> None:
    """Check every contestant's first answer, which compiles it as well.

    Raises:
        Failure: one is wrong.
    """
    for name, work in works.items():
        found = work.calls[0]()
        for ours, reference in zip([found] if len(expected) == 1 else found, expected, strict=True):
            error = ((ours.float() - reference).norm() / reference.norm()).item()
            if not error < _AGREE:
                raise Failure(
                    f"The sums of '{name}' are wrong by {error:.2g} of their size.",
                    "Their time means nothing; report it with the versions printed above.",
                )
