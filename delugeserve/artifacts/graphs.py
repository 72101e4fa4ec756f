"""What an ONNX file holds, whoever wrote it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delugeserve.errors import UsageError, require

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# What may stand between a stored weight and the node that uses it, without changing its numbers.
_PASSING = frozenset({"Cast", "DequantizeLinear", "Identity", "Reshape", "Transpose", "Unsqueeze"})
_PRODUCER = "delugeserve"


@dataclass(frozen=True)
class GraphFile:
    """An ONNX file.

    Attributes:
        path: the file.
        bytes: its size.
        ours: 'delugeserve export' wrote it.
        producer: name and version of what wrote it.
        ir_version: of the file format.
        opsets: version of each operator set; the standard one is called ``ai.onnx``.
        metadata: strings stored with the model.
        inputs: type and shape by name, such as ``uint8 [N, 32, 32, 3]``.
        outputs: likewise.
        nodes: number of nodes by operator, the most frequent first; subgraphs included.
        stored_bytes: size of the stored tensors by type.
        parameters: stored values of types that weights have: floats and integers up to 8 bits.
        weights: what Conv, ConvTranspose, Gemm and MatMul multiply with: number of nodes by the
            type that their weight is stored in.
        external: weights lie in other files beside this one.
    """

    path: Path
    bytes: int
    ours: bool
    producer: str
    ir_version: int
    opsets: Mapping[str, int]
    metadata: Mapping[str, str]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    nodes: Mapping[str, int]
    stored_bytes: Mapping[str, int]
    parameters: int
    weights: Mapping[str, int]
    external: bool


def read_graph(path: Path) -> GraphFile:
    """Read an ONNX file; weights in other files stay there.

    Raises:
        UsageError: it is not an ONNX model.
        MissingExtraError: onnx is not installed.
    """
    onnx = require("onnx", "export")
    decode_error = require("google.protobuf.message", "export").DecodeError
    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, decode_error) as error:
        raise _refusal(path) from error
    # An empty file, and some others, are valid messages that say nothing.
    if not model.graph.node or not model.opset_import:
        raise _refusal(path)
    stored = dict(_stored_tensors(model.graph))
    sizes = Counter[str]()
    for tensor in stored.values():
        sizes[_dtype(tensor.data_type)] += _size(tensor)
    nodes = Counter(node.op_type for node in _nodes(model.graph))
    known = {tensor.name for tensor in model.graph.initializer}
    return GraphFile(
        path=path,
        bytes=path.stat().st_size,
        ours=model.producer_name == _PRODUCER,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        ir_version=model.ir_version,
        opsets={opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        metadata={prop.key: prop.value for prop in model.metadata_props},
        inputs=_tensors(value for value in model.graph.input if value.name not in known),
        outputs=_tensors(model.graph.output),
        nodes=dict(nodes.most_common()),
        stored_bytes=dict(sizes.most_common()),
        parameters=sum(
            math.prod(tensor.dims)
            for tensor in stored.values()
            if _dtype(tensor.data_type).startswith(("float", "bfloat", "int8", "uint8", "int4"))
        ),
        weights=dict(_weight_types(model.graph, stored).most_common()),
        external=any(len(tensor.external_data) > 0 for tensor in stored.values()),
    )


def _refusal(path: Path) -> UsageError:
    return UsageError(
        f"{path} is not an ONNX model.", "Give an undamaged .onnx file, or export the model again."
    )


def _nodes(graph: Any) -> Iterator[Any]:
    """The nodes of a graph and of the graphs inside them, as If and Loop have them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.g.node else []), *attribute.graphs):
                yield from _nodes(inner)


def _stored_tensors(graph: Any) -> Iterator[tuple[str, Any]]:
    """Initialisers and the values of Constant nodes, by name."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in _nodes(graph):
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    yield node.output[0], attribute.t


def _weight_types(graph: Any, stored: Mapping[str, Any]) -> Counter[str]:
    """How many of the nodes with weights have theirs stored in which type."""
    makers = {output: node for node in graph.node for output in node.output}
    types = Counter[str]()
    for node in graph.node:
        if node.op_type not in _WEIGHTED or len(node.input) < 2:
            continue
        name = node.input[1]
        while name in makers and makers[name].op_type in _PASSING:
            name = makers[name].input[0]
        # A MatMul of two activations has none.
        if name in stored:
            types[_dtype(stored[name].data_type)] += 1
    return types


def _tensors(values: Any) -> dict[str, str]:
    shown = {}
    for value in values:
        tensor = value.type.tensor_type
        sizes = [
            str(size.dim_value) if size.HasField("dim_value") else size.dim_param or "?"
            for size in tensor.shape.dim
        ]
        shown[value.name] = f"{_dtype(tensor.elem_type)} [{', '.join(sizes)}]"
    return shown


def _size(tensor: Any) -> int:
    """Bytes of a stored tensor; types of four bits fill a byte by two."""
    onnx = require("onnx", "export")
    elements: int = math.prod(tensor.dims)
    if "int4" in _dtype(tensor.data_type):
        return math.ceil(elements / 2)
    try:
        return elements * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except KeyError:  # a type of tomorrow
        return len(tensor.raw_data)


def _dtype(data_type: int) -> str:
    """NumPy's name of an ONNX type."""
    onnx = require("onnx", "export")
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(data_type).name)
    except KeyError:
        return "unknown"
