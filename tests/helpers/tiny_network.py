"""A very small network for a real server, and clients that ask it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

SIZE, CLASSES, POISON = 8, 4, 200
LABELS = ["ant", "bee", "cat", "dog"]
CONFIG = """
backend: "{backend}"
max_batch_size: 16
input {{ name: "image" data_type: TYPE_UINT8 dims: [{size}, {size}, 3] }}
output {{ name: "logits" data_type: TYPE_FP32 dims: [{classes}] }}
output {{ name: "probabilities" data_type: TYPE_FP32 dims: [{classes}]
          label_filename: "1/labels.txt" }}
instance_group {{ count: 1 }}
dynamic_batching {{ max_queue_delay_microseconds: 20000 }}
version_policy {{ specific {{ versions: 1 }} }}
parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}
"""


def build_network(slow: bool = False, poison: int = POISON):
    """Mean colour -> linear -> softmax. An image with a pixel above ``poison`` makes it fail.

    The slow one spends about 60 GFLOP on each batch.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    weight = np.random.default_rng(0).normal(size=(3, CLASSES)).astype(np.float32) / 100
    constants = {
        "weight": weight,
        "axes": np.array([1, 2]),
        "zeros": np.zeros(poison + 1, np.float32),
        "square": np.array([1500, 1500]),
    }
    # The largest pixel, as an index into a table that is too short for it.
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["pixels"], ["peak"], keepdims=0),
        helper.make_node("Cast", ["peak"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["zeros", "index"], ["nothing"]),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["product"]),
    ]
    result = "product"
    if slow:
        nodes.append(helper.make_node("Expand", ["nothing", "square"], ["power0"]))
        for step in range(9):
            names = [f"power{step}", f"power{step}"], [f"power{step + 1}"]
            nodes.append(helper.make_node("MatMul", *names))
        nodes.append(helper.make_node("ReduceMax", ["power9"], ["most"], keepdims=0))
        nodes.append(helper.make_node("Add", ["product", "most"], ["late"]))
        result = "late"
    nodes.append(helper.make_node("Add", [result, "nothing"], ["logits"]))
    nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1))
    image = ["N", SIZE, SIZE, 3]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, image)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", CLASSES])
            for name in ("logits", "probabilities")
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    checker.check_model(model)
    return model


def add_model(repository: Path, name: str, backend: str = "onnxruntime", **network):
    import onnx
    import openvino

    version = repository / name / "1"
    version.mkdir(parents=True)
    onnx.save(build_network(**network), version / "model.onnx")
    parameter = ("intra_op_thread_count", "1")
    if backend == "openvino":
        converted = openvino.convert_model(version / "model.onnx")
        openvino.save_model(converted, version / "model.xml", compress_to_fp16=False)
        (version / "model.onnx").unlink()
        parameter = ("INFERENCE_NUM_THREADS", "1")
    (version / "labels.txt").write_text("\n".join(LABELS))
    (repository / name / "config.pbtxt").write_text(
        CONFIG.format(
            backend=backend, size=SIZE, classes=CLASSES, key=parameter[0], value=parameter[1]
        )
    )


def images(count: int, seed: int = 0) -> np.ndarray:
    shape = (count, SIZE, SIZE, 3)
    return np.random.default_rng(seed).integers(0, POISON, shape, dtype=np.uint8)


def infer(client_module, client, model: str, batch: np.ndarray, outputs=None):
    tensor = client_module.InferInput("image", batch.shape, "UINT8")
    tensor.set_data_from_numpy(batch)
    wanted = [client_module.InferRequestedOutput(name) for name in outputs] if outputs else None
    return client.infer(model, [tensor], outputs=wanted)


def connect(url: str):
    import tritonclient.grpc as grpc

    return contextlib.closing(grpc.InferenceServerClient(url))
