"""What a plan is good for, and what it computes in, as far as its builder tells."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class PlanDetails:
    """What a plan is good for, for the manifest.

    Attributes:
        runtime: the module that built it and can load it.
        version: the version of it that built, and of those the only one that loads it.
        version_compatible: later versions load it too.
        compute_capabilities: the GPUs it was built for; empty if there is a minimum instead.
        minimum_compute_capability: every GPU from here on.
        built_on: the GPU that it was built on; None if none was needed.
        profile: smallest, best and largest shape of every input.
        precisions: how many of its layers that multiply matrices run in which.
        precisions_of: ``engine`` if its layers were counted, ``network`` if the builder told
            nothing of them and those of the graph were, whose types it must keep to.
        options: those it was built with.
    """

    runtime: str
    version: str
    version_compatible: bool
    compute_capabilities: tuple[str, ...]
    minimum_compute_capability: str | None
    built_on: str | None
    profile: Mapping[str, Mapping[str, tuple[int, ...]]]
    precisions: Mapping[Precision, int]
    precisions_of: Literal["engine", "network"]
    options: Mapping[str, Any]


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
