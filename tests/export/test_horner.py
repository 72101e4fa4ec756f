"""Horner's scheme: the same sums, whatever the weights, in fewer passes over memory."""

from collections import Counter

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from delugeserve.networks.build import build_network
from delugeserve.networks.inference import fold
from delugeserve.zoo import CIFAR10, ModelSpec
from delugeserve_export.engines.openvino import OpenVino
from delugeserve_export.graph import build_graph
from delugeserve_export.horner import factors

EPSILONS = (2.0**-23, 2.0**-10, 2.0**-7)
WEIGHTS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(-1e4, 1e4, width=32),
)


def chain(h, by):
    total = np.zeros(h.shape[1])
    for term, factor in zip(h, by.astype(np.float64), strict=True):
        total = (total + term) * factor
    return total


@given(WEIGHTS, st.sampled_from(EPSILONS), st.integers(0, 99))
@example(np.zeros((3, 2), np.float32), EPSILONS[0], 0)
@example(np.array([[1], [0], [-2]], np.float32), EPSILONS[1], 0)
@example(np.array([[1e-45], [0], [1e-45]], np.float32), EPSILONS[0], 0)
def test_the_chain_is_the_weighted_sum(weight, epsilon, seed):
    h = np.random.default_rng(seed).standard_normal(weight.shape)
    expected = (weight.astype(np.float64) * h).sum(axis=0)
    scale = np.abs(weight).astype(np.float64).max(axis=0) * np.abs(h).sum(axis=0)
    np.testing.assert_array_less(
        np.abs(chain(h, factors(weight, epsilon)) - expected), 2 * epsilon * scale + 1e-44
    )


@given(WEIGHTS, st.sampled_from(EPSILONS))
def test_no_ratio_is_so_large_that_half_precision_overflows(weight, epsilon):
    ratios = factors(weight, epsilon)[:-1]
    assert (np.abs(ratios) <= 1.001 / epsilon).all()


def test_openvino_takes_fewer_passes(tmp_path):
    spec = ModelSpec("tiny", "cifar", (4, 6, 8), (6, 6, 6), CIFAR10)
    folded = fold(build_network(spec, seed=0).eval())
    backend, passes = OpenVino(), {}
    for form in ("mul", "horner"):
        graph = build_graph(folded, spec.dataset, sum_form=form)
        folder = tmp_path / form
        folder.mkdir()
        compiled = backend._compile(backend.build(graph, folder), "fp32")
        kinds = Counter(
            operation.get_rt_info()["layerType"].astype(str)
            for operation in compiled.get_runtime_model().get_ops()
        )
        passes[form] = sum(kinds[kind] for kind in ("Eltwise", "Multiply", "MulAdd", "Add"))
    assert passes["horner"] < 0.6 * passes["mul"]
