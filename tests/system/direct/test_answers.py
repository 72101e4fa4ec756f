"""The answers of a bare server with our backends, over both protocols."""

from __future__ import annotations

import contextlib
import re
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from processes import HANG
from tiny_network import CLASSES, LABELS, SIZE, connect, images, infer

from delugeserve.serving.supervisor import serve
from delugeserve.serving.triton.server import TritonServer

onnxruntime = pytest.importorskip("onnxruntime", reason="the backends need the extra 'server'")
grpc = pytest.importorskip("tritonclient.grpc")
http = pytest.importorskip("tritonclient.http")


@pytest.fixture(scope="module")
def reference(repository: Path):
    session = onnxruntime.InferenceSession(repository / "tiny" / "1" / "model.onnx")
    return lambda images: dict(
        zip(("logits", "probabilities"), session.run(None, {"image": images}), strict=True)
    )


@pytest.fixture(scope="module")
def server(repository: Path):
    with serve(repository, grpc_port=0, http_port=0, metrics_port=0, direct=True) as running:
        yield running


@pytest.mark.parametrize("model", ["tiny", "tiny_ov"])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_answers_are_the_networks(server: TritonServer, reference, model, protocol):
    module, url = (grpc, server.grpc_url) if protocol == "grpc" else (http, server.http_url)
    batch = images(5)
    with contextlib.closing(module.InferenceServerClient(url)) as client:
        answer = infer(module, client, model, batch)
    for name, expected in reference(batch).items():
        np.testing.assert_allclose(answer.as_numpy(name), expected, rtol=1e-4, atol=1e-5)


def test_serves_what_has_a_configuration(server: TritonServer):
    assert server.models == ["tiny", "tiny_ov"]


@pytest.mark.parametrize("model", ["tiny", "tiny_ov"])
def test_requests_that_arrive_together_share_an_inference(server: TritonServer, reference, model):
    batches = [images(1 + seed % 3, seed) for seed in range(24)]
    deadline, shared = time.monotonic() + HANG, False
    with connect(server.grpc_url) as client, ThreadPoolExecutor(24) as pool:
        while not shared:  # a busy machine may run the threads one after another
            assert time.monotonic() < deadline
            before = client.get_inference_statistics(model).model_stats[0]
            answers = list(pool.map(lambda batch: infer(grpc, client, model, batch), batches))
            after = client.get_inference_statistics(model).model_stats[0]
            for batch, answer in zip(batches, answers, strict=True):
                np.testing.assert_allclose(
                    answer.as_numpy("logits"), reference(batch)["logits"], rtol=1e-4, atol=1e-5
                )
            assert after.inference_count - before.inference_count == sum(map(len, batches))
            shared = after.execution_count - before.execution_count < len(batches)


@pytest.mark.parametrize("model", ["tiny", "tiny_ov"])
def test_only_the_requested_outputs_come_back(server: TritonServer, model):
    with connect(server.grpc_url) as client:
        answer = infer(grpc, client, model, images(1), ["probabilities"])
    assert [output.name for output in answer.get_response().outputs] == ["probabilities"]


@pytest.mark.parametrize("model", ["tiny", "tiny_ov"])
def test_labels_come_with_the_classification_extension(server: TritonServer, reference, model):
    batch = images(1)
    tensor = grpc.InferInput("image", batch.shape, "UINT8")
    tensor.set_data_from_numpy(batch)
    wanted = grpc.InferRequestedOutput("probabilities", class_count=1)
    with connect(server.grpc_url) as client:
        answer = client.infer(model, [tensor], outputs=[wanted]).as_numpy("probabilities")
    best = int(reference(batch)["logits"][0].argmax())
    assert answer[0, 0].decode().split(":")[1:] == [str(best), LABELS[best]]


@pytest.mark.parametrize(
    ("model", "bad"),
    [
        *((name, np.zeros((1, SIZE + 1, SIZE, 3), np.uint8)) for name in ("tiny", "tiny_ov")),
        ("tiny", np.zeros((SIZE, SIZE, 3), np.uint8)),
        ("tiny", np.zeros((17, SIZE, SIZE, 3), np.uint8)),
        # The network itself fails on it; OpenVINO would read past the table without a word.
        ("tiny", np.full((1, SIZE, SIZE, 3), 255, np.uint8)),
    ],
    ids=["height", "height-openvino", "no-batch", "too-many", "poison"],
)
def test_bad_input_is_refused_and_the_server_lives_on(server: TritonServer, model, bad):
    with connect(server.grpc_url) as client:
        with pytest.raises(Exception, match=r"image|input|batch") as caught:
            infer(grpc, client, model, bad)
        assert not re.search(r"Traceback|\.py|/tmp|/usr|File ", str(caught.value))
        assert infer(grpc, client, model, images(1)).as_numpy("logits").shape == (1, CLASSES)


def test_a_bad_request_does_not_spoil_its_neighbours_shape(server: TritonServer):
    with connect(server.grpc_url) as client, ThreadPoolExecutor(8) as pool:
        bad = np.zeros((1, SIZE, SIZE + 2, 3), np.uint8)
        futures = [
            pool.submit(infer, grpc, client, "tiny", bad if turn % 2 else images(1))
            for turn in range(8)
        ]
    assert [future.exception() is None for future in futures] == [True, False] * 4


def test_metrics_are_served(server: TritonServer):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(server.metrics_url) as response:
        assert b"nv_inference_count" in response.read()
