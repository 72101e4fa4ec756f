"""Q/DQ in the graph: what is quantised, how, and that every runtime computes just that."""

import dataclasses
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper

from delugeserve.artifacts.interface import SumForm
from delugeserve.networks.build import build_network
from delugeserve.networks.inference import fold
from delugeserve.runtimes import BACKENDS
from delugeserve.zoo import CIFAR10, IMAGENET, Architecture, ModelSpec
from delugeserve_export.calibration import collect_histograms
from delugeserve_export.graph import build_graph
from delugeserve_export.quantisation import Range, insert_qdq, quantisable_layers

ON_CPU = [BACKENDS[name] for name in ("onnxruntime", "openvino")]
SMALL_IMAGENET = dataclasses.replace(IMAGENET, image_size=64, class_names=IMAGENET.class_names[:13])
CIFAR = ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6), (2, 3)), CIFAR10)
SPECS = {
    "cifar": CIFAR,
    "imagenet": ModelSpec(
        "tiny", Architecture("tiny", "imagenet", (4, 6, 8, 10), (1, 1, 1, 2)), SMALL_IMAGENET
    ),
}


@pytest.fixture(scope="module", params=SPECS.values(), ids=SPECS)
def spec(request):
    return request.param


@pytest.fixture(scope="module")
def images(spec):
    size = spec.task.image_size
    return np.random.default_rng(0).integers(0, 256, (8, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folded(spec):
    network = build_network(spec, seed=0)
    with torch.no_grad():  # signals of a trained network's size
        for _ in range(5):
            network(torch.randn(8, 3, spec.task.image_size, spec.task.image_size))
    return fold(network.eval())


@pytest.fixture(scope="module")
def graph(folded, spec):
    return build_graph(folded, spec.task)


@pytest.fixture(scope="module")
def ranges(graph, images):
    tensors = {tensor for group in quantisable_layers(graph).values() for tensor in group}
    histograms = collect_histograms(graph, sorted(tensors), images)
    return {name: Range(found.maximum, found.signed) for name, found in histograms.items()}


def logits_of(graph, images):
    # Without its optimiser ONNX Runtime computes every node as ONNX defines it.
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": images})[0]


def relative_error(logits, expected):
    return np.sqrt(np.mean((logits - expected) ** 2)) / expected.std()


def test_a_layer_is_a_convolution_with_its_input_and_what_goes_into_sums(graph, spec):
    layers = quantisable_layers(graph)
    assert len(layers) == sum(
        node.op_type == "Conv" for node in onnx.load_from_string(graph).graph.node
    )
    assert layers["block2/layer1/conv1"] == ("block2/layer1/relu1",)
    assert layers["block2/layer1/conv3"] == ("block2/layer1/relu3", "block2/layer1/conv3")
    assert layers["transition1/conv"] == ("transition1/sum", "transition1/conv")


def test_layers_do_not_depend_on_how_sums_are_written(graph, folded, spec):
    for form in get_args(SumForm):
        written = build_graph(folded, spec.task, sum_form=form)
        assert quantisable_layers(written) == quantisable_layers(graph)


@pytest.mark.parametrize("integers", ["int8", "uint8"])
def test_int8_strays_by_rounding_only(graph, images, ranges, integers):
    quantised = insert_qdq(graph, ranges, quantisable_layers(graph), integers)
    error = relative_error(logits_of(quantised, images), logits_of(graph, images))
    assert 0 < error < 0.35


def test_what_is_not_quantised_keeps_the_graph_s_type(folded, spec, graph, images, ranges):
    half = build_graph(folded, spec.task, float_type="fp16")
    layers = quantisable_layers(half)
    assert layers == quantisable_layers(graph)
    quantised = insert_qdq(half, ranges, layers, "int8")
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(quantised), strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    inside = {kind for name, kind in types.items() if not name.startswith(("input/", "head/cast"))}
    assert inside == {TensorProto.FLOAT16, TensorProto.INT8}
    in_fp32 = insert_qdq(graph, ranges, layers, "int8")
    error = relative_error(logits_of(quantised, images), logits_of(in_fp32, images))
    assert 0 < error < 0.1


def test_weights_too_small_for_their_scale_are_zero(folded, spec, ranges):
    weight = folded.blocks[1].layers[0].convs[1].weight.detach()
    kept = weight.clone()
    try:
        weight[0], weight[1] = 0, 1e-7
        half = build_graph(folded, spec.task, float_type="fp16")
    finally:
        weight.copy_(kept)
    layer = "block2/layer1/conv2"
    model = onnx.load_from_string(insert_qdq(half, ranges, [layer], "int8"))
    constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    values, scales = (constants[f"{layer}/weight/{key}"] for key in ("quantised", "scale"))
    assert (scales > 0).all()
    assert not values[:2].any()
    assert values[2:].any()


def test_nothing_quantised_is_the_same_graph(graph, ranges):
    assert insert_qdq(graph, ranges, (), "int8") == graph


def test_scales_are_symmetric_and_biases_stay(graph, ranges):
    layer = "block2/layer1/conv2"
    model = onnx.load_from_string(insert_qdq(graph, ranges, [layer], "int8"))
    constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    before = {
        one.name: numpy_helper.to_array(one)
        for one in onnx.load_from_string(graph).graph.initializer
    }
    (conv,) = [node for node in model.graph.node if node.name == layer]
    weight, scales = (constants[f"{layer}/weight/{key}"] for key in ("quantised", "scale"))
    assert weight.dtype == np.int8
    assert scales.shape == (len(weight),)
    assert set(np.abs(weight).reshape(len(weight), -1).max(axis=1)) == {127}
    np.testing.assert_allclose(
        weight * scales[:, None, None, None],
        before[f"{layer}/weight"],
        atol=scales.max() / 2 * 1.001,
    )
    assert f"{layer}/weight" not in constants
    np.testing.assert_array_equal(constants[conv.input[2]], before[f"{layer}/bias"])
    source = "block2/layer1/relu2"
    assert conv.input[0] == f"{source}/dequantised"
    assert constants[f"{source}/zero"] == 0
    assert constants[f"{source}/scale"] == np.float32(ranges[source].threshold / 127)
    quantisers = [node.op_type for node in model.graph.node if "Linear" in node.op_type]
    assert sorted(quantisers) == ["DequantizeLinear"] * 2 + ["QuantizeLinear"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "form"),
    [("onnxruntime", "batchnorm"), ("openvino", "mul"), ("openvino", "horner")],
)
def test_runtimes_compute_what_the_graph_says(
    folded, spec, images, ranges, backend, form, tmp_path
):
    """Also with only some layers in int8: fusing across the border is where runtimes go wrong."""
    backend = BACKENDS[backend]
    graph = build_graph(folded, spec.task, sum_form=form)
    layers = list(quantisable_layers(graph))
    for index, chosen in enumerate([layers, layers[::2], layers[1::3], layers[-1:]]):
        quantised = insert_qdq(graph, ranges, chosen, backend.integers)
        folder = tmp_path / str(index)
        folder.mkdir()
        artefact = backend.build(quantised, folder)
        logits, _ = backend.load(artefact, "int8")(images)
        assert relative_error(logits, logits_of(quantised, images)) < 0.15
        executed = backend.executed_precisions(artefact, "int8")["Convolution"]
        assert sum(executed.values()) == len(layers)
        # Where only some are quantised, ONNX Runtime computes those in fp32 before the others.
        if backend.name != "onnxruntime" or chosen == layers:
            assert executed["int8"] == len(chosen)


@pytest.mark.parametrize(
    ("backend", "precision"),
    [(b, p) for b in ON_CPU for p in b.precisions if p != "int8"],
)
def test_without_quantisation_nothing_executes_in_int8(graph, backend, precision, tmp_path):
    artefact = backend.build(graph, tmp_path)
    executed = backend.executed_precisions(artefact, precision)["Convolution"]
    assert executed == {precision: len(quantisable_layers(graph))}
