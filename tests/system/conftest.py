"""A model of a few numbers that tells an image's colour by its mean: red, green or blue."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

_LABELS = ["red", "green: grass", "blue"]
_CONFIG = """
backend: "onnxruntime"
max_batch_size: 4
input {{ name: "image" data_type: {dtype} dims: [8, 12, 3] }}
output {{ name: "logits" data_type: TYPE_FP32 dims: [3] }}
output {{ name: "probabilities" data_type: TYPE_FP32 dims: [3] {labels} }}
dynamic_batching {{ {queue} }}
instance_group {{ count: 1 }}
parameters {{ key: "resize_size" value {{ string_value: "10" }} }}
"""


@pytest.fixture(scope="session")
def write_colour_model():
    """A function that writes the model into a folder; it takes up to four images of 8x12 pixels."""
    pytest.importorskip("onnx", reason="the test network needs the extra 'export'")
    return _write_colour_model


@pytest.fixture
def photos(tmp_path):
    """A folder with two images, one of them in a subfolder, a truncated image and a text file."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    Image.new("RGB", (90, 60), "red").save(folder / "a red.png")
    Image.new("RGB", (60, 90), "blue").save(folder / "below" / "blue.JPG", "JPEG")
    (folder / "broken.jpg").write_bytes((folder / "below" / "blue.JPG").read_bytes()[:400])
    (folder / "notes.txt").write_text("not an image")
    return folder


def _write_colour_model(
    folder: Path,
    *,
    dtype: str = "TYPE_UINT8",
    labels: str = 'label_filename: "labels.txt"',
    queue: str = "",
) -> None:
    from onnx import TensorProto, helper, numpy_helper, save

    kind = {"TYPE_UINT8": TensorProto.UINT8, "TYPE_FP32": TensorProto.FLOAT}[dtype]
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "scale"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "colour",
        [helper.make_tensor_value_info("image", kind, ["N", 8, 12, 3])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3])
            for name in ("logits", "probabilities")
        ],
        [
            numpy_helper.from_array(np.array([1, 2]), "axes"),
            numpy_helper.from_array(np.float32(0.01), "scale"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "1").mkdir(parents=True)
    save(model, folder / "1" / "model.onnx")
    (folder / "labels.txt").write_text("\n".join(_LABELS) + "\n")
    (folder / "config.pbtxt").write_text(_CONFIG.format(dtype=dtype, labels=labels, queue=queue))
