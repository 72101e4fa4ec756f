"""Which OpenVINO releases can read the artefacts that are built for it."""

from __future__ import annotations

from typing import get_args
from xml.etree import ElementTree

import pytest

from delugeserve.artifacts.interface import SumForm
from delugeserve.networks.build import build_network
from delugeserve.networks.inference import fold
from delugeserve.runtimes import BACKENDS
from delugeserve.zoo import CIFAR10, IMAGENET, Architecture, ModelSpec
from delugeserve_export.graph import build_graph
from delugeserve_export.quantisation import Range, insert_qdq, quantisable_layers

NEWEST_OPSET = 15  # of OpenVINO 2024.4, which the oldest supported Triton containers carry
SPECS = {
    "cifar": ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6), (2, 2)), CIFAR10),
    "imagenet": ModelSpec(
        "tiny", Architecture("tiny", "imagenet", (4, 6, 8, 10), (1, 1, 1, 1)), IMAGENET
    ),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("form", get_args(SumForm))
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_older_releases_know_every_operation(tmp_path, spec, form, precision):
    graph = build_graph(fold(build_network(spec).eval()), spec.task, sum_form=form)
    if precision == "int8":
        layers = quantisable_layers(graph)
        ranges = {tensor: Range(4.0, True) for tensors in layers.values() for tensor in tensors}
        graph = insert_qdq(graph, ranges, layers, BACKENDS["openvino"].integers)
    path = BACKENDS["openvino"].build(graph, tmp_path)
    operations = {
        (layer.get("type"), int(layer.get("version").removeprefix("opset")))
        for layer in ElementTree.parse(path).getroot().iter("layer")
    }
    assert ("FakeQuantize" in dict(operations)) == (precision == "int8")
    assert "Identity" not in dict(operations)
    assert {operation for operation in operations if operation[1] > NEWEST_OPSET} == set()
