"""The gate lets rounding pass, and nothing else: artefacts broken on purpose, one by one."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from delugeserve.artifacts.interface import LOGITS
from delugeserve.artifacts.records import Check
from delugeserve.networks.checkpoint import load_checkpoint
from delugeserve.networks.classifier import network_classifier
from delugeserve.networks.inference import fold
from delugeserve.runtimes import BACKENDS
from delugeserve.verification import gate
from delugeserve.verification.evidence import Evidence
from delugeserve.verification.gate import (
    batch_sizes,
    check_precision,
    describe_failure,
    not_run,
)
from delugeserve.verification.invariance import try_invariances
from delugeserve.zoo import CIFAR10, find_model
from delugeserve_export.graph import build_graph
from delugeserve_export.samples import sample_images

SPEC = find_model("delugenet38")


@pytest.fixture(scope="module")
def network():
    return load_checkpoint(SPEC.weights).build()


@pytest.fixture(scope="module")
def graph(network):
    return build_graph(fold(network), SPEC.task)


@pytest.fixture(scope="module")
def evidence(network):
    images, description = sample_images(SPEC.task, 24)
    return Evidence(images, network_classifier(network, SPEC.task)(images), description)


@pytest.fixture
def verify(evidence, tmp_path):
    """Puts the artefact of an ONNX model through the gate."""

    def verify(model, precision="fp32", **options):
        backend = BACKENDS["onnxruntime"]
        artefact = backend.build(model, tmp_path)
        return gate.verify(
            {precision: backend.load(artefact, "fp32")},
            evidence,
            precision=precision,
            sizes=batch_sizes(16),
            trained=True,
            **options,
        )

    return verify


def edited(graph, edit):
    model = onnx.load_from_string(graph)
    edit(model.graph)
    return model.SerializeToString()


def change(graph, name, function):
    """Change one initialiser."""
    (tensor,) = (tensor for tensor in graph.initializer if tensor.name == name)
    value = numpy_helper.to_array(tensor).copy()
    tensor.CopyFrom(numpy_helper.from_array(function(value), name))


def swap_channel_order(graph):
    change(graph, "stem/conv2d1/weight", lambda weight: weight[:, ::-1].copy())


def shift_the_mean(graph):
    change(graph, "input/mean", lambda mean: mean + np.float32(1))


def zero_one_cross_layer_weight(graph):
    def zero(weight):
        weight[0, 3] = 0
        return weight

    change(graph, "block3/layer4/sum/term2/weight", zero)


def mix_rows(graph, amount=None):
    """Answer each image with the logits of another, or add so much of them to its own."""
    gemm = graph.node[-2]
    assert gemm.op_type == "Gemm"
    assert gemm.output[0] == LOGITS
    gemm.output[0] = "own"
    tensors = {"starts": [-1], "ends": [-(2**31)], "axes": [0], "steps": [-1]}
    for name, value in tensors.items():
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    if amount is None:
        nodes = [helper.make_node("Slice", ["own", *tensors], [LOGITS])]
    else:
        graph.initializer.append(numpy_helper.from_array(np.float32(amount), "amount"))
        nodes = [
            helper.make_node("Slice", ["own", *tensors], ["others"]),
            helper.make_node("Mul", ["others", "amount"], ["leak"]),
            helper.make_node("Add", ["own", "leak"], [LOGITS]),
        ]
    for node in nodes:
        graph.node.insert(len(graph.node) - 1, node)


def fix_the_batch(graph):
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1


def test_the_honest_artefact_passes(verify, graph):
    found = verify(graph)
    assert found.status == "passed"
    assert found.failures == ()
    assert [row.batch_size for row in found.comparisons] == [1, 7, 16]
    assert {check.name for check in found.checks} >= {"equal images, batch of 7"}


@pytest.mark.parametrize(
    ("edit", "failing"),
    [
        (swap_channel_order, "logits, fp32 at batch size 1"),
        (shift_the_mean, "logits, fp32 at batch size 1"),
        (zero_one_cross_layer_weight, "logits, fp32 at batch size 1"),
        (mix_rows, "shuffled images, batch of 7"),
        (fix_the_batch, "fp32 at batch size 7"),
    ],
)
def test_a_broken_artefact_is_caught(verify, graph, edit, failing):
    found = verify(edited(graph, edit))
    assert found.status == "failed"
    assert failing in {check.name for check in found.failures}
    assert found.failures[0].name in describe_failure(found)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_hundredth_of_another_row_is_caught_where_rounding_would_hide_it(
    verify, graph, precision
):
    found = verify(edited(graph, lambda graph: mix_rows(graph, 0.01)), precision)
    assert [check.name for check in found.failures] == ["shuffled images, batch of 7"]


def test_rows_of_one_batch_size_differ_by_no_bit(evidence, graph, tmp_path):
    """What the limit for them rests on."""
    for backend, precision in (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")):
        (folder := tmp_path / f"{backend}-{precision}").mkdir()
        infer = BACKENDS[backend].load(BACKENDS[backend].build(graph, folder), precision)
        tried = try_invariances(infer, evidence.images[:7], 10)
        assert [one.relative_error for one in tried if one.exact] == [0, 0]


def test_what_is_found_names_image_and_distance(verify, graph):
    found = verify(edited(graph, swap_channel_order))
    by_name = {check.name: check for check in found.checks}
    assert "image " in by_name["logits, fp32 at batch size 16"].detail
    assert "image " in by_name["same class, fp32 at batch size 16"].detail


def test_a_fault_of_one_batch_size_alone_is_caught(evidence, network):
    honest = network_classifier(network, SPEC.task)

    def softmax(logits):
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        return exponentials / exponentials.sum(1, keepdims=True)

    def infer(images):
        logits = honest(images if len(images) != 16 else images[..., ::-1].copy())
        return logits, softmax(logits)

    found = gate.verify(
        {"fp32": infer}, evidence, precision="fp32", sizes=batch_sizes(16), trained=True
    )
    assert {check.name for check in found.failures} == {
        "logits, fp32 at batch size 16",
        "same class, fp32 at batch size 16",
    }


def test_another_precision_than_was_asked_for_is_caught(verify, graph):
    found = verify(graph, computed_in={"fp32": 40, "fp16": 1})
    assert [check.name for check in found.failures] == ["computes in the precision asked for"]
    assert verify(graph, computed_in={"fp32": 41}).status == "passed"


@pytest.mark.parametrize(
    ("computed_in", "quantised", "passed"),
    [
        ({"int8": 39, "fp32": 1}, None, True),
        ({"int8": 9, "fp32": 30}, None, False),
        ({"int8": 9, "fp32": 30}, 10, True),
        ({"int8": 5, "fp32": 34}, 10, False),
        ({}, None, False),
    ],
)
def test_int8_is_held_to_the_layers_that_were_quantised(computed_in, quantised, passed):
    assert check_precision("int8", computed_in, quantised).passed is passed


def test_an_untrained_network_is_held_to_its_logits_alone(verify, graph, evidence):
    def examined(scale):
        logits = evidence.logits * np.float32(scale)
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        probabilities = exponentials / exponentials.sum(1, keepdims=True)
        rows = {image.tobytes(): row for row, image in enumerate(evidence.images)}

        def infer(images):
            index = [rows[image.tobytes()] for image in images]
            return logits[index], probabilities[index]

        return gate.verify(
            {"bf16": infer}, evidence, precision="bf16", sizes=[1, 8], trained=False
        ).status

    assert examined(-0.3) == "failed"
    assert examined(0.7) == "passed"


def test_what_cannot_run_here_has_not_passed(evidence):
    passed, failed = (Check("its graph", ok, "", "") for ok in (True, False))
    found = not_run(evidence, "no GPU", passed)
    assert (found.status, found.failures) == ("built, not run", ())
    assert found.checks[0].found == "no GPU"
    found = not_run(evidence, "no GPU", passed, failed)
    assert (found.status, found.failures) == ("failed", (failed,))


def test_flips_name_the_classes(verify, graph):
    found = verify(edited(graph, swap_channel_order), class_names=CIFAR10.class_names)
    flips = found.comparisons[-1].flips
    assert flips
    for flip in flips:
        assert flip.expected_name == CIFAR10.class_names[flip.expected]
        assert flip.found_name == CIFAR10.class_names[flip.found]
    (check,) = (one for one in found.failures if one.name == "same class, fp32 at batch size 16")
    assert f"{flips[0].found_name}, not {flips[0].expected_name}" in check.detail
    unnamed = verify(edited(graph, swap_channel_order)).comparisons[-1].flips[0]
    assert unnamed.found_name == f"class {unnamed.found}"


@pytest.mark.parametrize(
    ("maximum", "optimum", "sizes"),
    [
        (1, None, [1]),
        (2, None, [1, 2]),
        (3, None, [1, 3]),
        (7, None, [1, 7]),
        (16, None, [1, 7, 16]),
        (64, None, [1, 7, 16, 64]),
        (64, 32, [1, 7, 32, 64]),
        (64, 1, [1, 7, 64]),
    ],
)
def test_batch_sizes_hold_one_an_odd_one_the_optimum_and_the_maximum(maximum, optimum, sizes):
    assert batch_sizes(maximum, optimum) == sizes


def test_invariances_name_the_row_that_moved(evidence):
    def leaky(images):
        """The last row of a batch also sees the first."""
        logits = images.reshape(len(images), -1)[:, :5].astype(np.float32)
        logits[-1] += logits[0] * (len(images) > 1)
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        return logits, exponentials / exponentials.sum(1, keepdims=True)

    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    by_name = {one.name: one for one in try_invariances(leaky, images, 5)}
    assert by_name["single images"].worst_image == 4
    assert by_name["equal images"].worst_image == 4
    assert all(one.relative_error > 0.1 for one in by_name.values())


def test_only_flips_that_rounding_cannot_explain_count():
    reference = np.array([[0, margin] for margin in (4, -4, 0.01, -0.01)], np.float32)
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1).repeat(3, axis=3)
    evidence = Evidence(images, reference, "four")

    def examined(flipped):
        def infer(images):
            logits = reference[images[:, 0, 0, 0]].copy()
            turned = np.isin(images[:, 0, 0, 0], flipped)
            logits[turned] = np.where(np.abs(logits[turned]) < 1, -logits[turned], [[0.1, 0]])
            exponentials = np.exp(logits)
            return logits, exponentials / exponentials.sum(1, keepdims=True)

        found = gate.verify({"bf16": infer}, evidence, precision="bf16", sizes=[4], trained=True)
        return {check.name: check.passed for check in found.checks}[
            "same class, bf16 at batch size 4"
        ]

    assert examined([2, 3])
    assert not examined([0])
