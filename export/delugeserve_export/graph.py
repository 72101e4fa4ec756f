"""The ONNX graph of a folded DelugeNet, written node by node.

``torch.onnx.export`` traces, decomposes and optimises a network whose structure is known. Writing
the graph takes a fraction of a second, and every node has the name of its layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import nn

from delugeserve._version import __version__
from delugeserve.artifacts.interface import INPUT, LOGITS, PROBABILITIES, FloatType, SumForm
from delugeserve.networks.inference import FoldedDelugeNet, WeightedSum
from delugeserve.zoo import Task
from delugeserve_export import horner
from delugeserve_export.precision import FORMATS, encode


def build_graph(
    network: FoldedDelugeNet,
    task: Task,
    *,
    sum_form: SumForm = "mul",
    float_type: FloatType = "fp32",
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Write a folded network as an ONNX model.

    Args:
        network: the folded network, in float32; see :func:`delugeserve.networks.inference.fold`.
        task: image size, classes, mean and standard deviation.
        sum_form: how weighted sums are written; ``horner`` overflows in fp16.
        float_type: type of weights and activations. Normalisation and softmax are in fp32.
        metadata: strings to store in the model.

    Returns:
        A checked, serialised ONNX model; its inputs and outputs are those of
        :mod:`delugeserve.artifacts.interface`.

    Raises:
        UsageError: a weight is too large for ``float_type``.
    """
    size, classes = task.image_size, task.num_classes
    writer = _Writer(sum_form, float_type)
    writer.network(network, writer.normalise(INPUT, task))
    if float_type != "fp32":
        writer.cast("head/linear", "head/cast", "fp32")
    # Rename the output instead of adding an Identity, which OpenVINO would write as an operation
    # that its releases before 2025.4 cannot read.
    writer.nodes[-1].output[0] = LOGITS
    writer.node("Softmax", [LOGITS], PROBABILITIES, axis=1)

    graph = helper.make_graph(
        writer.nodes,
        "delugenet",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", size, size, 3])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", classes])
            for name in (LOGITS, PROBABILITIES)
        ],
        writer.initializers,
    )
    form = FORMATS[float_type]
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", form.opset)],
        ir_version=form.ir_version,
        producer_name="delugeserve",
        producer_version=__version__,
    )
    helper.set_model_props(model, dict(metadata or {}))
    # The checker is ten times as fast on bytes as on the message.
    serialised: bytes = model.SerializeToString()
    onnx.checker.check_model(serialised, full_check=True)
    return serialised


@dataclasses.dataclass
class _Writer:
    """Appends nodes; every method returns the name of its output tensor."""

    sum_form: SumForm
    float_type: FloatType
    nodes: list[onnx.NodeProto] = dataclasses.field(default_factory=list)
    initializers: list[onnx.TensorProto] = dataclasses.field(default_factory=list)

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(
        self, name: str, value: NDArray[np.float32], float_type: FloatType | None = None
    ) -> str:
        self.initializers.append(encode(name, value, float_type or self.float_type))
        return name

    def cast(self, x: str, name: str, to: FloatType) -> str:
        return self.node("Cast", [x], name, to=FORMATS[to].onnx)

    def normalise(self, image: str, task: Task) -> str:
        # TensorRT accepts a uint8 input only if it is cast first.
        pixels = self.cast(image, "input/float", "fp32")
        planes = self.node("Transpose", [pixels], "input/planes", perm=[0, 3, 1, 2])
        mean = np.array(task.mean, np.float32).reshape(1, 3, 1, 1) * np.float32(255)
        std = np.array(task.std, np.float32).reshape(1, 3, 1, 1) * np.float32(255)
        centre = self.constant("input/mean", mean, "fp32")
        centred = self.node("Sub", [planes, centre], "input/centred")
        scale = self.constant("input/scale", 1 / std, "fp32")
        if self.float_type == "fp32":
            return self.node("Mul", [centred, scale], "input/normalised")
        scaled = self.node("Mul", [centred, scale], "input/scaled")
        return self.cast(scaled, "input/normalised", self.float_type)

    def network(self, network: FoldedDelugeNet, x: str) -> str:
        x = self.stem(network.stem, x)
        outputs: list[str] = []
        for index, block in enumerate(network.blocks, start=1):
            if index > 1:
                transition = network.transitions[index - 2]
                name = f"transition{index - 1}"
                x = self.weighted_sum(transition.sum, outputs, f"{name}/sum")
                x = self.conv(transition.conv, x, f"{name}/conv")
            outputs = [x] if block.input_is_output else []
            for number, layer in enumerate(block.layers, start=1):
                name = f"block{index}/layer{number}"
                y = self.weighted_sum(layer.sum, outputs or [x], f"{name}/sum")
                for which, conv in enumerate(layer.convs, start=1):
                    y = self.node("Relu", [y], f"{name}/relu{which}")
                    y = self.conv(conv, y, f"{name}/conv{which}")
                outputs.append(y)
        x = self.weighted_sum(network.head.sum, outputs, "head/sum")
        x = self.node("Relu", [x], "head/relu")
        x = self.node("GlobalAveragePool", [x], "head/pool")
        x = self.node("Flatten", [x], "head/features", axis=1)
        weight = self.constant("head/linear/weight", _array(network.head.linear.weight))
        bias = self.constant("head/linear/bias", _array(network.head.linear.bias))
        return self.node("Gemm", [x, weight, bias], "head/linear", transB=1)

    def stem(self, stem: nn.Sequential, x: str) -> str:
        for index, module in enumerate(stem, start=1):
            name = f"stem/{type(module).__name__.lower()}{index}"
            if isinstance(module, nn.Conv2d):
                x = self.conv(module, x, name)
            elif isinstance(module, nn.MaxPool2d):
                x = self.node(
                    "MaxPool", [x], name, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
                )
            else:
                x = self.node("Relu", [x], name)
        return x

    def conv(self, conv: nn.Conv2d, x: str, name: str) -> str:
        inputs = [x, self.constant(f"{name}/weight", _array(conv.weight))]
        if conv.bias is not None:
            inputs.append(self.constant(f"{name}/bias", _array(conv.bias)))
        padding = conv.padding[0]
        return self.node(
            "Conv",
            inputs,
            name,
            kernel_shape=list(conv.kernel_size),
            strides=list(conv.stride),
            pads=[padding] * 4,
        )

    def weighted_sum(self, sum_: WeightedSum, outputs: Sequence[str], name: str) -> str:
        weight, bias = _array(sum_.weight), _array(sum_.bias)
        if self.sum_form == "horner":
            return self._horner_chain(outputs, weight, bias, name)
        write = {
            "mul": self._mul_term,
            "batchnorm": self._batchnorm_term,
            "conv": self._conv_term,
        }[self.sum_form]
        total = ""
        for index, (h, w) in enumerate(zip(outputs, weight, strict=True)):
            last = index == len(outputs) - 1
            # The bias goes with the first term, where it costs nothing or nearly so.
            term_name = name if last and not total else f"{name}/term{index}"
            term = write(h, w, bias if index == 0 else None, term_name)
            total = (
                self.node("Add", [total, term], name if last else f"{name}/add{index}")
                if total
                else term
            )
        return total

    def _horner_chain(
        self,
        outputs: Sequence[str],
        weight: NDArray[np.float32],
        bias: NDArray[np.float32],
        name: str,
    ) -> str:
        total = ""
        for index, (h, factor) in enumerate(zip(outputs, horner.factors(weight), strict=True)):
            total = self.node("Add", [total, h], f"{name}/add{index}") if total else h
            total = self._scale(total, factor, f"{name}/scaled{index}")
        return self._shift(total, bias, name)

    def _scale(self, x: str, factor: NDArray[np.float32], name: str) -> str:
        scale = self.constant(f"{name}/weight", factor.reshape(1, -1, 1, 1))
        return self.node("Mul", [x, scale], name)

    def _shift(self, x: str, bias: NDArray[np.float32], name: str) -> str:
        shift = self.constant(f"{name}/bias", bias.reshape(1, -1, 1, 1))
        return self.node("Add", [x, shift], name)

    def _mul_term(
        self, h: str, weight: NDArray[np.float32], bias: NDArray[np.float32] | None, name: str
    ) -> str:
        if bias is None:
            return self._scale(h, weight, name)
        return self._shift(self._scale(h, weight, f"{name}/scaled"), bias, name)

    def _batchnorm_term(
        self, h: str, weight: NDArray[np.float32], bias: NDArray[np.float32] | None, name: str
    ) -> str:
        zeros, ones = np.zeros_like(weight), np.ones_like(weight)
        values = {
            "scale": weight,
            "bias": zeros if bias is None else bias,
            "mean": zeros,
            "var": ones,
        }
        inputs = [self.constant(f"{name}/{key}", value) for key, value in values.items()]
        return self.node("BatchNormalization", [h, *inputs], name, epsilon=0.0)

    def _conv_term(
        self, h: str, weight: NDArray[np.float32], bias: NDArray[np.float32] | None, name: str
    ) -> str:
        inputs = [h, self.constant(f"{name}/weight", weight.reshape(-1, 1, 1, 1))]
        if bias is not None:
            inputs.append(self.constant(f"{name}/bias", bias))
        return self.node("Conv", inputs, name, kernel_shape=[1, 1], group=len(weight))


def _array(tensor: Any) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().numpy().astype(np.float32)
    return array
