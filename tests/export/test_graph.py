"""The graph against the network it was written from, through a real runtime."""

import dataclasses
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from delugeserve.artifacts.interface import FloatType, SumForm
from delugeserve.networks.build import build_network
from delugeserve.networks.classifier import normalise
from delugeserve.networks.inference import fold
from delugeserve.zoo import CIFAR10, IMAGENET, Architecture, ModelSpec
from delugeserve_export.graph import build_graph

SMALL_IMAGENET = dataclasses.replace(IMAGENET, image_size=64, class_names=IMAGENET.class_names[:13])
SPECS = {
    "cifar": ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6, 8), (1, 2, 4)), CIFAR10),
    "imagenet": ModelSpec(
        "tiny", Architecture("tiny", "imagenet", (4, 6, 8, 10), (2, 1, 2, 3)), SMALL_IMAGENET
    ),
}


@pytest.fixture(params=SPECS.values(), ids=SPECS)
def spec(request):
    return request.param


@pytest.fixture
def network(spec):
    network = build_network(spec, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(
                    torch.randn(module.running_mean.shape, generator=generator)
                )
                module.running_var.uniform_(0.5, 2, generator=generator)
    return network.eval()


@pytest.fixture
def images(spec):
    size = spec.task.image_size
    return np.random.default_rng(0).integers(0, 256, (5, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("form", get_args(SumForm))
def test_the_graph_is_the_network(network, spec, images, form):
    graph = build_graph(fold(network), spec.task, sum_form=form)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    mean, std = torch.tensor(spec.task.mean), torch.tensor(spec.task.std)
    with torch.no_grad():
        expected = network(normalise(torch.from_numpy(images), mean, std))
    for batch in (1, 5):
        logits, probabilities = session.run(None, {"image": images[:batch]})
        np.testing.assert_allclose(logits, expected[:batch].numpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            probabilities, expected[:batch].softmax(1).numpy(), rtol=1e-4, atol=1e-5
        )


def test_the_interface_is_what_servers_and_clients_rely_on(network, spec):
    graph = build_graph(fold(network), spec.task, metadata={"model": "tiny"})
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    size, classes = spec.task.image_size, spec.task.num_classes
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["N", size, size, 3])
    assert [(out.name, out.type, out.shape) for out in session.get_outputs()] == [
        ("logits", "tensor(float)", ["N", classes]),
        ("probabilities", "tensor(float)", ["N", classes]),
    ]
    assert session.get_modelmeta().custom_metadata_map == {"model": "tiny"}


def test_the_graph_holds_folded_numbers_only(network, spec):
    model = onnx.load_from_string(build_graph(fold(network), spec.task))
    operators = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in operators
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert {numpy_helper.to_array(tensor).dtype for tensor in model.graph.initializer} == {
        np.dtype("float32")
    }


@pytest.mark.parametrize("float_type", get_args(FloatType))
def test_no_node_copies_the_logits(network, spec, float_type):
    """OpenVINO writes an Identity as an operation of opset 16, which its older releases refuse."""
    model = onnx.load_from_string(build_graph(fold(network), spec.task, float_type=float_type))
    (last,) = [node for node in model.graph.node if "logits" in node.output]
    assert last.name == ("head/linear" if float_type == "fp32" else "head/cast")
    assert "Identity" not in {node.op_type for node in model.graph.node}


def test_the_first_node_casts(network, spec):
    model = onnx.load_from_string(build_graph(fold(network), spec.task))
    (first,) = [node for node in model.graph.node if "image" in node.input]
    assert first.op_type == "Cast", "TensorRT takes a uint8 input only if it is cast first"
