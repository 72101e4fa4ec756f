"""Graphs in fp16 and bf16: what they hold, what they compute, and what does not fit."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from delugeserve.errors import UsageError
from delugeserve.networks.build import build_network
from delugeserve.networks.classifier import network_classifier
from delugeserve.networks.inference import fold
from delugeserve.verification.evidence import Evidence
from delugeserve.zoo import CIFAR10, Architecture, ModelSpec, find_model
from delugeserve_export.graph import build_graph
from delugeserve_export.proof import check_graph
from delugeserve_export.samples import sample_images
from delugeserve_export.source import load_source

TINY = ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6), (2, 2)), CIFAR10)
TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@pytest.mark.parametrize("float_type", TYPES)
def test_everything_between_the_casts_is_reduced(float_type):
    graph = build_graph(fold(build_network(TINY).eval()), CIFAR10, float_type=float_type)
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(graph), strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    whole = {name for name, kind in types.items() if kind == TensorProto.FLOAT}
    assert whole == {
        "input/float",
        "input/planes",
        "input/centred",
        "input/scaled",
    }
    assert set(types.values()) == {TensorProto.FLOAT, TYPES[float_type]}
    weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert {name for name, kind in weights.items() if kind == TensorProto.FLOAT} == {
        "input/mean",
        "input/scale",
    }
    assert {output.type.tensor_type.elem_type for output in model.graph.output} == {
        TensorProto.FLOAT
    }


@pytest.mark.parametrize(
    ("float_type", "sum_form"), [("fp16", "mul"), ("bf16", "mul"), ("bf16", "horner")]
)
def test_a_trained_network_stays_within_the_budget(float_type, sum_form, tmp_path):
    spec = find_model("delugenet38")
    source = load_source(spec, None)
    images, _ = sample_images(spec.task, 32)
    reference = network_classifier(source.network, spec.task)(images)
    graph = build_graph(fold(source.network), spec.task, float_type=float_type, sum_form=sum_form)
    check = check_graph(
        graph,
        tmp_path,
        Evidence(images, reference, "crops"),
        precision=float_type,
        batch_size=16,
        trained=True,
    )
    assert check.passed, check
    error = float(check.found.removeprefix("RMS error ").partition(",")[0])
    assert error > 1e-4, "rounding leaves a trace; without one it was fp32"


def test_a_weight_that_fp16_does_not_reach_is_named():
    network = build_network(TINY).eval()
    with torch.no_grad():
        network.head.linear.weight[3, 2] = -7e4
    folded = fold(network)
    with pytest.raises(UsageError, match="head/linear/weight"):
        build_graph(folded, CIFAR10, float_type="fp16")
    build_graph(folded, CIFAR10, float_type="bf16")


def test_rounding_is_to_nearest_and_to_even():
    from delugeserve_export.precision import encode

    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8 - 2**-20], np.float32)
    bits = np.frombuffer(encode("x", values, "bf16").raw_data, np.uint16)
    rounded = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(rounded, [1, 1 + 2**-6, -1 - 2**-7])
