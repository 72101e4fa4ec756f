"""The least time that a folded network can take, from the operations and bytes of its graph."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from delugeserve.networks.inference import FoldedDelugeNet, WeightedSum


@dataclass(frozen=True)
class Operation:
    """One operation of a graph, with the ReLU after it.

    Attributes:
        kind: ``Conv2d``, ``WeightedSum``, ``Linear`` or ``MaxPool2d``.
        flops: floating-point operations, two per multiply-add.
        numbers: numbers that it reads and writes, each once.
    """

    kind: str
    flops: int
    numbers: int

    def seconds(self, flops_per_s: float, bytes_per_s: float, item_size: int) -> float:
        """Return the larger of the times that its arithmetic and its memory traffic take."""
        return max(self.flops / flops_per_s, self.numbers * item_size / bytes_per_s)


def operations(network: FoldedDelugeNet, shape: tuple[int, int, int, int]) -> list[Operation]:
    """List the operations of a folded network for images of a shape ``[N, 3, H, W]``."""
    found: list[Operation] = []

    def record(module: nn.Module, given: Any, result: Tensor) -> None:
        found.append(_operation(module, given[0], result))

    network = copy.deepcopy(network).to("meta")
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | WeightedSum | nn.MaxPool2d):
            module.register_forward_hook(record)
    with torch.no_grad():
        network(torch.empty(shape, device="meta"))
    return found


def _operation(module: nn.Module, given: Any, result: Tensor) -> Operation:
    inputs = [given] if isinstance(given, Tensor) else list(given)
    weights = sum(parameter.numel() for parameter in module.parameters())
    numbers = sum(x.numel() for x in inputs) + weights + result.numel()
    per_result = 0
    if isinstance(module, nn.Conv2d | nn.Linear):
        per_result = 2 * module.weight[0].numel()
    elif isinstance(module, WeightedSum):
        per_result = 2 * len(inputs)
    return Operation(type(module).__name__, per_result * result.numel(), numbers)


@dataclass(frozen=True)
class Ceilings:
    """Measured rates of a device.

    Attributes:
        flops_per_s: of a large matrix product in the networks' dtype.
        bytes_per_s: of a large copy, bytes read and written.
    """

    flops_per_s: float
    bytes_per_s: float


def measure_ceilings(
    device: str,
    dtype: torch.dtype,
    seconds_of: Callable[[Callable[[], Any]], float],
    *,
    small: bool,
) -> Ceilings:
    """Measure a large matrix product and a large copy.

    Args:
        device: ``cuda`` or ``cpu``.
        dtype: of the matrices.
        seconds_of: times a call.
        small: whether small sizes do.
    """
    size, span = (256, 1 << 22) if small else (8192, 1 << 30)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    source = torch.ones(span, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Ceilings(
        2 * size**3 / seconds_of(lambda: a @ b),
        2 * span / seconds_of(lambda: target.copy_(source)),
    )
