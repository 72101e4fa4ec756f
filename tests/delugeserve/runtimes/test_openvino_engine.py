"""The engine that runs a batch in parts: same bits, each image in its own row."""

from __future__ import annotations

import numpy as np
import openvino
import pytest

from delugeserve.networks.build import build_network
from delugeserve.networks.inference import fold
from delugeserve.runtimes import BACKENDS
from delugeserve.runtimes.openvino_engine import Engine
from delugeserve.zoo import CIFAR10, Architecture, ModelSpec
from delugeserve_export.graph import build_graph

IMAGES = np.random.default_rng(0).integers(0, 256, (17, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    spec = ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6), (1, 1)), CIFAR10)
    graph = build_graph(fold(build_network(spec).eval()), CIFAR10)
    return BACKENDS["openvino"].build(graph, tmp_path_factory.mktemp("artefact"))


@pytest.fixture(scope="module")
def make(artefact):
    core = openvino.Core()

    def make(threads, parts=None):
        return Engine(core, artefact, {"INFERENCE_PRECISION_HINT": "f32"}, threads, parts)

    return make


@pytest.fixture(scope="module")
def expected(make):
    engine = make(1)
    rows = [engine.run(IMAGES[row : row + 1], ["logits"])["logits"].copy() for row in range(17)]
    return np.concatenate(rows)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 17])
def test_any_number_of_parts_gives_the_same_bits(make, expected, threads, count):
    engine = make(threads)
    found = engine.run(IMAGES[:count], ["probabilities", "logits"])
    assert list(found) == ["probabilities", "logits"]
    np.testing.assert_array_equal(found["logits"], expected[:count])


def test_a_batch_is_split_where_that_uses_half_of_the_threads(make, monkeypatch):
    engine, whole = make(5), []
    request = engine._whole
    monkeypatch.setattr(engine, "_whole", Spy(request, whole))
    for count in (1, 2, 3, 17):
        engine.run(IMAGES[:count], ["logits"])
    assert whole == [1, 2]


def test_a_batch_that_is_never_split(make, expected):
    engine = make(2, parts=1)
    assert not engine._split
    np.testing.assert_array_equal(engine.run(IMAGES, ["logits"])["logits"], expected)


def test_a_batch_is_read_in_place(make, monkeypatch):
    engine, seen = make(2), []
    for request in engine._split:
        monkeypatch.setattr(
            request, "start_async", lambda inputs, share_inputs: seen.extend(inputs), raising=False
        )
    batch = IMAGES[:6].copy()
    engine.run(batch, [])
    assert [len(part) for part in seen] == [3, 3]
    assert all(np.shares_memory(part, batch) for part in seen)


class Spy:
    """A request that notes the sizes of its batches."""

    def __init__(self, request, sizes):
        self.request, self.sizes = request, sizes

    def infer(self, inputs, **options):
        self.sizes.append(len(inputs[0]))
        return self.request.infer(inputs, **options)

    def get_output_tensor(self, place):
        return self.request.get_output_tensor(place)
