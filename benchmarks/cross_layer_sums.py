"""The cross-layer sums of a network's blocks, forward and backward, timed in GB/s.

A sum does one multiplication and one addition per number that it reads, so it is bound by memory
bandwidth. It must move at least every input once and its result once; these bytes divided by the
time are its GB/s, to be compared with a large copy.
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

from delugeserve import Failure, ModelSpec, UsageError
from delugeserve.networks.fused import (
    Kernels,
    plain_sum,
    require_compiler,
    weighted_sum,
    weighted_sum_gradients,
)

SPAN = 1 << 28  # bytes; together the tensors exceed the cache of any GPU up to Blackwell

AGREE = 0.02  # relative; bf16 has eight bits of fraction
_SLEEP = 1 << 24  # cycles, about 10 ms: the GPU waits while the host queues work
_PATIENCE = 3


@dataclass(frozen=True)
class Work:
    """Calls on different tensors, so that no input is still in a cache.

    Attributes:
        calls: functions that return their result.
        num_bytes: bytes that all calls together must at least read and write.
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
    """Yield the shape ``[N, C, H, W]`` and number of outputs of each block of an ImageNet model."""
    size = spec.task.image_size // 4  # after the stem
    for width, layers in zip(spec.architecture.widths, spec.architecture.layers, strict=True):
        yield (batch, 2 * width, size, size), layers + 1
        size //= 2


def available_kernels(device: str) -> tuple[Kernels, ...]:
    """Return ``plain``, and ``compiled`` if available; print why not otherwise."""
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
    """Draw channels-last bf16 tensors: at least ``fewest``, of at least ``span`` bytes in total."""
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
    """Create the work of summing ``number`` tensors; plain kernels are a chain of addcmul."""
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
    """Create the work of the gradients of an output that ``number`` sums read, and its weights."""
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
    """Return the GB/s of the work: run it once to warm up, then repeatedly for ``seconds``."""
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
    """Time work that is queued in advance, so that the time of Python is not included."""
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
        common.err_console.print("[yellow]warning:[/] the GPU waited for the host.")
    return 1e-3 * begin.elapsed_time(end)


CLOCKS = {"cpu": seconds_on_cpu, "cuda": seconds_on_gpu}


def _groups(tensors: Sequence[Tensor], number: int) -> Iterator[list[Tensor]]:
    """Yield groups of ``number`` tensors; every tensor is used once before any is reused."""
    for start in range(0, len(tensors), number):
        yield [tensors[place % len(tensors)] for place in range(start, start + number)]


def _weight(number: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Draw weights ``[number, C]`` and a bias ``[C]`` in float32, as in training with autocast."""
    weight = torch.rand(number, like.shape[1], device=like.device) + 0.5
    return weight, weight.mean(dim=0)


def _autograd(
    x: Tensor, gradients: Sequence[Tensor], weight: Tensor, bias: Tensor
) -> Callable[[], tuple[Tensor, ...]]:
    """Return the backward pass of a chain of addcmul by autograd."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    sums = [plain_sum([x], row[None], bias) for row in weight]
    return partial(torch.autograd.grad, sums, (x, weight), gradients, retain_graph=True)


def _require_agreement(works: dict[str, Work], *expected: Tensor) -> None:
    """Check the first result of every contestant, which also compiles it.

    Raises:
        Failure: a result is wrong.
    """
    for name, work in works.items():
        found = work.calls[0]()
        for ours, reference in zip([found] if len(expected) == 1 else found, expected, strict=True):
            error = ((ours.float() - reference).norm() / reference.norm()).item()
            if not error < AGREE:
                raise Failure(
                    f"The relative error of the sums of '{name}' is {error:.2g}.",
                    "Do not use the timings; report this with the versions printed above.",
                )
