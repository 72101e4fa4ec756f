"""Horner's scheme: the same sums, whatever the weights, in fewer passes over memory."""

from collections import Counter

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from delugeserve.networks.build import build_network
from delugeserve.networks.inference import fold
from delugeserve.runtimes.openvino import OpenVino
from delugeserve.zoo import CIFAR10, Architecture, ModelSpec
from delugeserve_export.graph import build_graph
from delugeserve_export.horner import EPSILON, factors

WEIGHTS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(-1e4, 1e4, width=32),
)
SMALLEST = float(np.finfo(np.float32).smallest_normal)
"""Beneath it float32 has fewer digits."""


def partial_sums(h, by):
    total = np.zeros(h.shape[1])
    for term, factor in zip(h, by.astype(np.float64), strict=True):
        total = (total + term) * factor
        yield total


def chain(h, by):
    *_, total = partial_sums(h, by)
    return total


@given(WEIGHTS, st.integers(0, 99))
@example(np.zeros((3, 2), np.float32), 0)
@example(np.array([[1], [0], [-2]], np.float32), 0)
@example(np.array([[1e-45], [0], [1e-45]], np.float32), 0)
@example(np.array([[1e-38], [0]], np.float32), 0)
def test_the_chain_is_the_weighted_sum(weight, seed):
    h = np.random.default_rng(seed).standard_normal(weight.shape)
    expected = (weight.astype(np.float64) * h).sum(axis=0)
    size = np.abs(h).sum(axis=0)
    scale = np.abs(weight).astype(np.float64).max(axis=0) * size
    rounded = len(weight) / 2  # by half an epsilon each
    np.testing.assert_array_less(
        np.abs(chain(h, factors(weight)) - expected),
        (1 + rounded) * EPSILON * scale + SMALLEST * size,
    )


@given(WEIGHTS, st.integers(0, 99))
def test_no_partial_sum_leaves_the_range_of_float32_and_bfloat16(weight, seed):
    h = np.random.default_rng(seed).standard_normal(weight.shape)
    *partial, _ = partial_sums(h, factors(weight))
    for total in partial:
        assert (np.abs(total) <= 1.001 / EPSILON * np.abs(h).sum(axis=0)).all()


def test_a_small_weight_of_a_large_input_counts():
    """Folding divides by the standard deviation: the two go together."""
    weight = np.array([[1.0], [1e-3], [1.0]], np.float32)
    h = np.array([[1.0], [1e3], [1.0]])
    np.testing.assert_allclose(chain(h, factors(weight)), 3, rtol=1e-6)


def test_openvino_takes_fewer_passes(tmp_path):
    spec = ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6, 8), (6, 6, 6)), CIFAR10)
    folded = fold(build_network(spec, seed=0).eval())
    backend, passes = OpenVino(), {}
    for form in ("mul", "horner"):
        graph = build_graph(folded, spec.task, sum_form=form)
        folder = tmp_path / form
        folder.mkdir()
        compiled = backend._compile(backend.build(graph, folder), "fp32")
        kinds = Counter(
            operation.get_rt_info()["layerType"].astype(str)
            for operation in compiled.get_runtime_model().get_ops()
        )
        passes[form] = sum(kinds[kind] for kind in ("Eltwise", "Multiply", "MulAdd", "Add"))
    assert passes["horner"] < 0.6 * passes["mul"]
