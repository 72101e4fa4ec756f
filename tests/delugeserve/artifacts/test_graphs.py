"""What is read from ONNX files, ours and others', whole and damaged."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from delugeserve.artifacts.graphs import describe_network, read_graph, read_network
from delugeserve.errors import SubjectError
from delugeserve.zoo import find_model


def write_quantised(path):
    """A convolution with int8 weights and a product with fp16 ones, as a quantiser leaves them."""
    tensors = {
        "kernel": np.ones((4, 3, 1, 1), np.int8),
        "scale": np.ones(1, np.float32),
        "zero": np.zeros(1, np.int8),
        "matrix": np.ones((4, 2), np.float16),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["quantised"]),
        helper.make_node("DequantizeLinear", ["quantised", "scale", "zero"], ["restored"]),
        helper.make_node("DequantizeLinear", ["kernel", "scale", "zero"], ["weight"]),
        helper.make_node("Conv", ["restored", "weight"], ["features"]),
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Cast", ["matrix"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["flat", "cast"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "someone's",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(
        graph, producer_name="quantiser", opset_imports=[helper.make_opsetid("", 17)]
    )
    onnx.save(model, path)


def test_an_exported_graph(exported):
    found = read_graph(exported / "tiny" / "1" / "model.onnx")
    assert found.ours
    assert read_network(found.metadata).name == "tiny"
    assert found.inputs == {"image": "uint8 [N, 32, 32, 3]"}
    assert found.outputs == dict.fromkeys(("logits", "probabilities"), "float32 [N, 10]")
    assert found.opsets["ai.onnx"] >= 17
    assert found.weights == {"float32": found.nodes["Conv"] + found.nodes["Gemm"]}
    assert found.stored_bytes == {"float32": 4 * found.parameters}
    assert not found.external


def test_the_types_that_weights_are_stored_in(tmp_path):
    path = tmp_path / "quantised.onnx"
    write_quantised(path)
    found = read_graph(path)
    assert not found.ours
    assert found.producer == "quantiser"
    assert found.weights == {"int8": 1, "float16": 1}
    assert found.stored_bytes == {"float16": 16, "int8": 13, "float32": 4}
    assert found.inputs == {"x": "float32 [batch, 3, 8, 8]"}


@pytest.mark.parametrize(
    "content",
    [b"", b"no artefact at all\n", bytes(100), b"\xff" * 64, np.random.default_rng(0).bytes(5000)],
    ids=["empty", "text", "zeros", "ones", "random"],
)
def test_garbage_is_refused(tmp_path, content):
    path = tmp_path / "garbage.onnx"
    path.write_bytes(content)
    with pytest.raises(SubjectError) as caught:
        read_graph(path)
    assert caught.value.subject == str(path)


@pytest.mark.parametrize("length", [100, 1000, -1])
def test_a_graph_that_is_cut_off_is_refused(exported, tmp_path, length):
    path = tmp_path / "cut.onnx"
    path.write_bytes((exported / "tiny" / "1" / "model.onnx").read_bytes()[:length])
    with pytest.raises(SubjectError):
        read_graph(path)


def test_strings_that_are_not_utf8_can_be_printed(exported, tmp_path):
    path = tmp_path / "latin1.onnx"
    content = (exported / "tiny" / "1" / "model.onnx").read_bytes()
    path.write_bytes(content.replace(b"trained", b"train\xe9d").replace(b"image", b"im\xe9ge"))
    found = read_graph(path)
    assert "train\ufffdd" in found.metadata
    assert list(found.inputs) == ["im\ufffdge"]


@given(names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_a_network_is_read_back_from_its_metadata(names):
    spec = find_model("delugenet38").with_classes(names)
    assert read_network(describe_network(spec, trained=True)) == replace(spec, published=None)


@pytest.mark.parametrize(
    "changes",
    [{"task": "{"}, {"task": "{}"}, {"architecture": "[]"}, {"architecture": '{"name": "x"}'}],
)
def test_metadata_of_other_programs_describes_no_network(changes):
    metadata = describe_network(find_model("delugenet38"), trained=True)
    assert read_network(metadata | changes) is None
    assert read_network({"model": "delugenet38"}) is None
