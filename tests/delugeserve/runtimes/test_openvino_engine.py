"""The engine that runs a batch in parts: same bits, each image in its own row."""

from __future__ import annotations

import numpy as np
import openvino
import pytest

from delugeserve.networks.build import build_network
from delugeserve.networks.inference import fold
from delugeserve.runtimes import BACKENDS
from delugeserve.runtimes.openvino_engine import Engine, split
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


@pytest.mark.parametrize("parts", [None, 1])
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_any_split_gives_the_same_bits(make, expected, threads, parts):
    engine = make(threads, parts)
    for count in (1, 2, 3, 7, 16, 17, 4):
        found = engine.run(IMAGES[:count], ["probabilities", "logits"])
        assert list(found) == ["probabilities", "logits"]
        np.testing.assert_array_equal(found["logits"], expected[:count])


def test_the_shapes_have_a_free_batch(make):
    engine = make(2)
    assert engine.inputs == {"image": [-1, 32, 32, 3]}
    assert engine.outputs == {"logits": [-1, 10], "probabilities": [-1, 10]}


@pytest.mark.parametrize(
    ("count", "parts", "fours", "ones"),
    [
        (2, 1, 0, 2), (4, 1, 1, 0), (19, 1, 4, 3),
        (4, 2, 0, 4), (6, 2, 0, 6), (7, 2, 1, 3), (15, 2, 3, 3), (16, 2, 4, 0),
        (4, 8, 0, 4), (31, 8, 7, 3), (64, 8, 16, 0), (64, 64, 0, 64),
    ],
)  # fmt: skip
def test_parts_leave_no_thread_idle(count, parts, fours, ones):
    assert split(count, parts) == {4: fours, 1: ones}


def test_every_image_is_in_one_part():
    for count in range(1, 130):
        for parts in range(1, 40):
            assert sum(size * number for size, number in split(count, parts).items()) == count


def test_a_batch_is_read_in_place(make, monkeypatch):
    engine, seen = make(2), []
    for requests in engine._sized.values():
        monkeypatch.setattr(requests, "take", lambda count: [Request(seen)] * count)
    batch = IMAGES[:9].copy()
    engine.run(batch, [])
    assert [len(part) for part in seen] == [4, 4, 1]
    assert all(np.shares_memory(part, batch) for part in seen)


def test_a_part_that_fails_leaves_no_other_one_running(make, monkeypatch):
    engine, seen = make(2), []
    requests = [Request(seen, fails=True), Request(seen), Request(seen)]
    for sized in engine._sized.values():
        monkeypatch.setattr(sized, "take", lambda count: requests[:count])
    with pytest.raises(RuntimeError, match="no memory"):
        engine.run(IMAGES[:3], ["logits"])
    assert [request.waited for request in requests] == [1, 1, 1]


class Request:
    """Notes what it gets."""

    def __init__(self, seen, fails=False):
        self.seen, self.fails, self.waited = seen, fails, 0

    def start_async(self, inputs, share_inputs):
        assert share_inputs
        self.seen.extend(inputs)

    def wait(self):
        self.waited += 1
        if self.fails:
            raise RuntimeError("no memory")
