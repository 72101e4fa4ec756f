"""int8 in the graph itself: QuantizeLinear and DequantizeLinear around what is to be quantised.

A quantised convolution has its weights in int8, symmetric, with a scale for each output channel,
its input in int8, symmetric, with one scale, and its bias as it was: TensorRT takes Q/DQ on weights
and activations only. Scales have the graph's own type, so that what is not quantised stays in it.

If its output goes into cross-layer sums, that is quantised too: a sum then reads half the bytes,
and the runtime folds the scales into the sum's weights. It also keeps OpenVINO 2026.4 from a fault:
it moves the sums' multiplications, each of another reader, all into the convolution before them,
if that is quantised and its output is not.
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
    """What calibration found of a tensor.

    Attributes:
        threshold: the magnitude that becomes the largest integer.
        signed: whether it has values below zero.
    """

    threshold: float
    signed: bool


def quantisable_layers(graph: bytes) -> dict[str, tuple[str, ...]]:
    """The convolutions of a graph, by name, with the tensors that are quantised with each.

    They stand in the order of the graph.
    """
    model = onnx.load_from_string(graph)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for tensor in node.input:
            readers.setdefault(tensor, []).append(node)
    return {
        node.name: (
            node.input[0],
            # The others' outputs go through a ReLU first.
            *(tensor for tensor in node.output if all(map(_is_term, readers[tensor]))),
        )
        for node in model.graph.node
        if node.op_type == "Conv" and not _is_term(node)
    }


def _is_term(node: onnx.NodeProto) -> bool:
    """Whether a node is a term of a weighted sum, in whichever form."""
    grouped = any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
    return node.op_type in {"Mul", "Add", "BatchNormalization"} or grouped


def insert_qdq(
    graph: bytes, ranges: Mapping[str, Range], layers: Collection[str], integers: Integers
) -> bytes:
    """Quantise some convolutions of a graph.

    Args:
        graph: serialised ONNX model, as :func:`delugeserve_export.graph.build_graph` writes it in
            fp32 or fp16.
        ranges: of the tensors of :func:`quantisable_layers`.
        layers: names of the convolutions.
        integers: what activations are stored in.

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
    """Integers ``[out, in, H, W]`` and scales ``[out]``."""
    scale = _scale(np.abs(weight).max(axis=(1, 2, 3)), 127, weight.dtype)
    # Rounding the scale may carry the largest weight past 127; -128 is not used.
    values = np.rint(weight.astype(np.float32) / scale[:, None, None, None]).clip(-127, 127)
    return values.astype(np.int8), scale


def _scale(largest: Any, levels: int, dtype: Any) -> NDArray[Any]:
    scale = (np.asarray(largest, np.float64) / levels).astype(dtype)
    # What is too small for the type, or zero, is zero with any scale.
    return np.where(scale > 0, scale, scale.dtype.type(1))


def _levels_and_zero(range_: Range, integers: Integers) -> tuple[int, Any]:
    """The largest integer, counted from the zero, and the zero."""
    if integers == "int8" or (integers == "either" and range_.signed):
        return 127, np.int8(0)
    return (127, np.uint8(128)) if range_.signed else (255, np.uint8(0))
