"""Read an ONNX file: inputs, outputs, nodes, the types of its weights, and the network in it.

An exported file names its network in its metadata: ``model`` (the name), ``trained``, and as JSON
``architecture`` and ``task`` (:class:`~delugeserve.zoo.Architecture`,
:class:`~delugeserve.zoo.Task`). ``preprocessing`` is the digest of how images become its input.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delugeserve.artifacts.preprocessing import DIGEST, preprocessing_of
from delugeserve.artifacts.typed_json import from_json, to_json
from delugeserve.errors import SubjectError
from delugeserve.system.imports import require
from delugeserve.zoo import Architecture, ModelSpec, Task

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Operators that pass a weight on to the node that uses it.
_PASSING = frozenset({"Cast", "DequantizeLinear", "Identity", "Reshape", "Transpose", "Unsqueeze"})
_PRODUCER = "delugeserve"


@dataclass(frozen=True)
class GraphFile:
    """An ONNX file.

    Attributes:
        path: the file.
        bytes: its size.
        ours: whether 'delugeserve export' wrote it.
        producer: name and version of what wrote it.
        ir_version: of the file format.
        opsets: version by operator set; the standard set is ``ai.onnx``.
        metadata: strings stored with the model.
        inputs: type and shape by name, such as ``uint8 [N, 32, 32, 3]``.
        outputs: type and shape by name.
        nodes: number of nodes by operator, the most frequent first, with those of subgraphs.
        stored_bytes: size of the stored tensors by type.
        parameters: number of stored floats and integers of up to 8 bits.
        weights: number of Conv, ConvTranspose, Gemm and MatMul nodes by the type that their weight
            is stored in.
        external: whether weights are stored in other files.
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


def describe_network(spec: ModelSpec, *, trained: bool) -> dict[str, str]:
    """Return the metadata of a network's ONNX file; :func:`read_network` reads it."""
    return {
        "model": spec.name,
        "trained": str(trained).lower(),
        DIGEST: preprocessing_of(spec.task).digest,
        **{
            key: json.dumps(to_json(value), ensure_ascii=False)
            for key, value in (("architecture", spec.architecture), ("task", spec.task))
        },
    }


def read_network(metadata: Mapping[str, str]) -> ModelSpec | None:
    """Return the network that an ONNX file's metadata describes; None if it describes none.

    Args:
        metadata: the file's strings by name.
    """
    try:
        return ModelSpec(
            metadata["model"],
            from_json(Architecture, json.loads(metadata["architecture"])),
            from_json(Task, json.loads(metadata["task"])),
        )
    except (KeyError, ValueError, RecursionError):
        return None


def read_graph(path: Path) -> GraphFile:
    """Read an ONNX file; weights in other files are not loaded.

    Raises:
        SubjectError: it is not an ONNX model.
        MissingExtraError: onnx is not installed.
    """
    onnx = require("onnx", "export")
    decode_error = require("google.protobuf.message", "export").DecodeError
    try:
        model = onnx.load(path, load_external_data=False)
        # An empty file is a valid protobuf message.
        if not model.graph.node or not model.opset_import:
            raise _not_onnx(path)
        return _describe(path, model)
    except (OSError, decode_error) as error:
        raise _not_onnx(path) from error


def _describe(path: Path, model: Any) -> GraphFile:
    stored = dict(_stored_tensors(model.graph))
    sizes = Counter[str]()
    for tensor in stored.values():
        sizes[_dtype(tensor.data_type)] += _size(tensor)
    nodes = Counter(_text(node.op_type) for node in _nodes(model.graph))
    known = {tensor.name for tensor in model.graph.initializer}
    return GraphFile(
        path=path,
        bytes=path.stat().st_size,
        ours=model.producer_name == _PRODUCER,
        producer=f"{_text(model.producer_name)} {_text(model.producer_version)}".strip(),
        ir_version=model.ir_version,
        opsets={_text(opset.domain) or "ai.onnx": opset.version for opset in model.opset_import},
        metadata={_text(prop.key): _text(prop.value) for prop in model.metadata_props},
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


def _not_onnx(path: Path) -> SubjectError:
    return SubjectError(
        f"{path} is not an ONNX model.",
        "Copy it again from where it came, or export the model again.",
        str(path),
    )


def _nodes(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph and of its subgraphs, as If and Loop have them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.g.node else []), *attribute.graphs):
                yield from _nodes(inner)


def _stored_tensors(graph: Any) -> Iterator[tuple[str, Any]]:
    """Yield initializers and values of Constant nodes, with their names."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in _nodes(graph):
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    yield node.output[0], attribute.t


def _weight_types(graph: Any, stored: Mapping[str, Any]) -> Counter[str]:
    """Count the nodes with weights by the type that the weight is stored in."""
    makers = {output: node for node in graph.node for output in node.output}
    types = Counter[str]()
    for node in graph.node:
        if node.op_type not in _WEIGHTED or len(node.input) < 2:
            continue
        name = node.input[1]
        while name in makers and makers[name].op_type in _PASSING:
            name = makers[name].input[0]
        # A MatMul of two activations has no weight.
        if name in stored:
            types[_dtype(stored[name].data_type)] += 1
    return types


def _tensors(values: Any) -> dict[str, str]:
    shown = {}
    for value in values:
        tensor = value.type.tensor_type
        sizes = [
            str(size.dim_value) if size.HasField("dim_value") else _text(size.dim_param) or "?"
            for size in tensor.shape.dim
        ]
        shown[_text(value.name)] = f"{_dtype(tensor.elem_type)} [{', '.join(sizes)}]"
    return shown


def _text(value: str | bytes) -> str:
    """Return a string of the file; protobuf returns one that is not UTF-8 as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _size(tensor: Any) -> int:
    """Return the bytes of a stored tensor; two values of a 4-bit type share a byte."""
    onnx = require("onnx", "export")
    elements: int = math.prod(tensor.dims)
    if "int4" in _dtype(tensor.data_type):
        return math.ceil(elements / 2)
    try:
        return elements * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except KeyError:  # a type that this version of onnx does not know
        return len(tensor.raw_data)


def _dtype(data_type: int) -> str:
    """Return NumPy's name of an ONNX type."""
    onnx = require("onnx", "export")
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(data_type).name)
    except KeyError:
        return "unknown"
