"""What a plan computes in, counted from its builder's list of layers or from its graph."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, Literal

from delugeserve.artifacts.interface import Precision

# As an engine's layers and as a parsed network call them.
_PRECISIONS: Mapping[str, Precision] = {
    "float": "fp32",
    "half": "fp16",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "int8": "int8",
}
# A layer that multiplies matrices, with the type of the first tensor that it reads.
_PRODUCT = re.compile(r"LayerType: (?:correlation|gemm|runtime_fusion), .*?Datatype: (\w+)")


def count_precisions(
    runtime: ModuleType, network: Any, layers: str
) -> tuple[dict[Precision, int], Literal["engine", "network"]]:
    """Count the layers that multiply matrices by the precision they run in.

    Args:
        runtime: the module that built the engine.
        network: what was built.
        layers: the builder's list of the engine's layers; empty if it gave none.

    Returns:
        How many run in which, and what was counted: the engine's layers, or else the network's.
    """
    if in_engine := _count(_PRODUCT.findall(layers)):
        return in_engine, "engine"
    return _count(_product_types(runtime, network)), "network"


def _product_types(runtime: ModuleType, network: Any) -> Iterable[str]:
    """The types that a parsed network's convolutions and matrix products read."""
    products = {runtime.LayerType.CONVOLUTION, runtime.LayerType.MATRIX_MULTIPLY}
    layers = (network.get_layer(place) for place in range(network.num_layers))
    return [layer.get_input(0).dtype.name for layer in layers if layer.type in products]


def _count(types: Iterable[str]) -> dict[Precision, int]:
    known = (_PRECISIONS[name.lower()] for name in types if name.lower() in _PRECISIONS)
    return dict(collections.Counter(known))
