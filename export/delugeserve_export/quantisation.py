"""int8 in the graph: QuantizeLinear and DequantizeLinear nodes around quantised tensors.

A quantised convolution has symmetric int8 weights with a scale per output channel, a symmetric int8
input with one scale, and an unchanged bias: TensorRT supports Q/DQ on weights and activations only.
Scales have the graph's float type, so that the other layers stay in it.

An output that goes into cross-layer sums is quantised too. A sum then reads half the bytes, and the
runtime folds the scales into the sum's weights. It also avoids a fault of OpenVINO 2026.4, which
moves the multiplications behind a quantised convolution into it if its output is not quantised, all
of them, although they belong to different readers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from delugeserve.artifacts.interface import Integers


@dataclass(frozen=True)
class Range:
    """The range of a tensor, from calibration.

    Attributes:
        threshold: the magnitude that becomes the largest integer.
        signed: whether it has negative values.
    """

    threshold: float
    signed: bool


def quantisable_layers(graph: bytes) -> dict[str, tuple[str, ...]]:
    """Return the convolutions of a graph in its order: by name, the tensors quantised with each."""
    model = onnx.load_from_string(graph)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for tensor in node.input:
            readers.setdefault(tensor, []).append(node)
    return {
        node.name: (
            node.input[0],
            # Other outputs go through a ReLU first.
            *(tensor for tensor in node.output if all(map(_is_term, readers[tensor]))),
        )
        for node in model.graph.node
        if node.op_type == "Conv" and not _is_term(node)
    }


def _is_term(node: onnx.NodeProto) -> bool:
    """Return whether a node is a term of a weighted sum, in any form."""
    grouped = any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
    return node.op_type in {"Mul", "Add", "BatchNormalization"} or grouped


def insert_qdq(
    graph: bytes, ranges: Mapping[str, Range], layers: Collection[str], integers: Integers
) -> bytes:
    """Quantise some convolutions of a graph.

    Args:
        graph: serialised ONNX model, as :func:`delugeserve_export.graph.build_graph` writes it in
            fp32 or fp16.
        ranges: by tensor, for those of :func:`quantisable_layers`.
        layers: names of the convolutions to quantise.
        integers: integer type of the activations.

    Returns:
        A checked, serialised ONNX model with the same inputs and outputs.
    """
    tensors = quantisable_layers(graph)
    chosen = {tensor for layer in layers for tensor in tensors[layer]}
    model = onnx.load_from_string(graph)
    nodes: list[onnx.NodeProto] = []
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    first_conv = next(node for node in model.graph.node if node.op_type == "Conv")
    dtype = helper.tensor_dtype_to_np_dtype(constants[first_conv.input[1]].data_type)
    renamed: dict[str, str] = {}

    def add_constant(name: str, value: Any) -> str:
        constants[name] = numpy_helper.from_array(value, name)
        return name

    for node in model.graph.node:
        node.input[:] = [renamed.get(tensor, tensor) for tensor in node.input]
        if node.name in layers:
            weight = node.input[1]
            values, scales = _quantise_weight(numpy_helper.to_array(constants.pop(weight)))
            inputs = [
                add_constant(f"{weight}/quantised", values),
                add_constant(f"{weight}/scale", scales),
            ]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [weight], weight, axis=0))
        nodes.append(node)
        for tensor in chosen.intersection(node.output):
            levels, zero = _levels_and_zero(ranges[tensor], integers)
            parameters = [
                add_constant(f"{tensor}/scale", _scale(ranges[tensor].threshold, levels, dtype)),
                add_constant(f"{tensor}/zero", zero),
            ]
            quantised, renamed[tensor] = f"{tensor}/quantised", f"{tensor}/dequantised"
            for op, source, target in (
                ("QuantizeLinear", tensor, quantised),
                ("DequantizeLinear", quantised, renamed[tensor]),
            ):
                nodes.append(helper.make_node(op, [source, *parameters], [target], target))

    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants.values())
    serialised: bytes = model.SerializeToString()
    onnx.checker.check_model(serialised, full_check=True)
    return serialised


def _quantise_weight(weight: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[Any]]:
    """Return int8 weights ``[out, in, H, W]`` and scales ``[out]``."""
    scale = _scale(np.abs(weight).max(axis=(1, 2, 3)), 127, weight.dtype)
    # Rounding the scale may push the largest weight past 127; -128 is not used.
    values = np.rint(weight.astype(np.float32) / scale[:, None, None, None]).clip(-127, 127)
    return values.astype(np.int8), scale


def _scale(largest: Any, levels: int, dtype: Any) -> NDArray[Any]:
    scale = (np.asarray(largest, np.float64) / levels).astype(dtype)
    # A scale that is zero or underflows: the values are zero with any scale.
    return np.where(scale > 0, scale, scale.dtype.type(1))


def _levels_and_zero(range_: Range, integers: Integers) -> tuple[int, Any]:
    """Return the largest integer, relative to the zero point, and the zero point."""
    if integers == "int8" or (integers == "either" and range_.signed):
        return 127, np.int8(0)
    return (127, np.uint8(128)) if range_.signed else (255, np.uint8(0))
