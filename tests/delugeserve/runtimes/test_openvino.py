"""OpenVINO: which releases can read what is built for it."""

from __future__ import annotations

from typing import get_args
from xml.etree import ElementTree

import pytest

from delugeserve.artifacts.interface import SumForm
from delugeserve.networks.build import build_network
from delugeserve.networks.inference import fold
from delugeserve.runtimes import BACKENDS
from delugeserve.zoo import CIFAR10, IMAGENET, ModelSpec
from delugeserve_export.graph import build_graph

NEWEST_OPSET = 15  # of OpenVINO 2024.4, which the oldest supported Triton containers carry
SPECS = {
    "cifar": ModelSpec("tiny", "cifar", (4, 6), (2, 2), CIFAR10),
    "imagenet": ModelSpec("tiny", "imagenet", (4, 6, 8, 10), (1, 1, 1, 1), IMAGENET),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("form", get_args(SumForm))
def test_older_releases_know_every_operation(tmp_path, spec, form):
    graph = build_graph(fold(build_network(spec).eval()), spec.dataset, sum_form=form)
    path = BACKENDS["openvino"].build(graph, tmp_path)
    layers = list(ElementTree.parse(path).getroot().iter("layer"))
    assert "Identity" not in {layer.get("type") for layer in layers}
    newer = {
        (layer.get("type"), layer.get("version"))
        for layer in layers
        if int(layer.get("version").removeprefix("opset")) > NEWEST_OPSET
    }
    assert not newer
    results = [layer.get("name") for layer in layers if layer.get("type") == "Result"]
    assert len(results) == 2
