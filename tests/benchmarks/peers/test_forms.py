"""What each kind of server is sent, and how its answers are read."""

from __future__ import annotations

import base64
import json
import pickle

import numpy as np
import pytest
from peer_model import MODEL
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor

from benchmarks.peers import forms
from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.grpc_sender import BytesMessages, OpenGrpc
from benchmarks.peers.interface import GRPC, REQUIREMENTS

IMAGE = bytes(range(12))
FOUND = np.array([0.5, 0.25, 0, 0.125], np.float32)
PREDICTIONS = [
    {"label": MODEL.labels[i], "index": i, "probability": float(FOUND[i])} for i in (0, 1, 3)
]
TENSORS = {
    "outputs": [
        {"name": "index", "data": [0, 1, 3]},
        {"name": "probability", "data": [0.5, 0.25, 0.125]},
    ]
}
CASES = {
    "PLAIN_PIXELS": FOUND.tobytes(),
    "PLAIN_JPEG": json.dumps({"predictions": PREDICTIONS}).encode(),
    "JSON_PIXELS": FOUND.tobytes(),
    "JSON_JPEG": json.dumps({"predictions": PREDICTIONS}).encode(),
    "LIST_PIXELS": json.dumps([FOUND.tolist()]).encode(),
    "LIST_JPEG": json.dumps([PREDICTIONS]).encode(),
    "V2_PIXELS": json.dumps(
        {"outputs": [{"name": "probabilities", "data": FOUND.tolist()}]}
    ).encode(),
    "V2_JPEG": json.dumps(TENSORS).encode(),
    "V2_GRPC": FOUND.tobytes(),
    "GATEWAY_JPEG": json.dumps({"predictions": PREDICTIONS}).encode(),
    "TRITON_PIXELS": b'{"outputs":[]}' + FOUND.tobytes(),
}


@pytest.mark.parametrize("name", CASES)
def test_answers_are_read_alike(name):
    read = getattr(forms, name).read(CASES[name], MODEL.classes)
    assert np.array_equal(np.frombuffer(read, np.float32), FOUND)


@pytest.mark.parametrize("name", CASES)
def test_requests_have_the_image(name):
    form = getattr(forms, name)
    assert form.url(MODEL).startswith("/") != (name == "V2_GRPC")
    assert "{" not in form.url(MODEL)
    assert "/" in form.all_headers(MODEL)["Content-Type"]
    body = form.body(MODEL, IMAGE)
    assert IMAGE in body or base64.b64encode(IMAGE) in body


def test_a_message_for_a_server_that_is_not_triton():
    opened = OpenGrpc(MODEL, forms.V2_GRPC, [IMAGE])
    messages = BytesMessages(pickle.loads(pickle.dumps(opened)))
    request = service_pb2.ModelInferRequest.FromString(messages.build([0]))
    assert (request.model_name, request.inputs[0].datatype) == ("stub", "BYTES")
    assert deserialize_bytes_tensor(request.raw_input_contents[0]).tolist() == [IMAGE]
    reply = service_pb2.ModelInferResponse(raw_output_contents=[FOUND.tobytes()])
    assert messages.read(reply.SerializeToString()) == FOUND.tobytes()


def test_the_head_of_a_binary_tensor_is_as_long_as_the_header_says():
    body = forms.TRITON_PIXELS.body(MODEL, IMAGE)
    length = int(forms.TRITON_PIXELS.all_headers(MODEL)["Inference-Header-Content-Length"])
    (tensor,) = json.loads(body[:length])["inputs"]
    assert tensor["shape"] == [1, 2, 2, 3]
    assert body[length:] == IMAGE


@pytest.mark.parametrize("peer", PEERS.values(), ids=list(PEERS))
def test_every_peer_is_pinned_documented_and_asked_over_http(peer):
    assert all(peer.http_form(name) for name in peer.forms)
    assert [name for name, form in peer.forms.items() if form is None] in ([], [GRPC])
    if peer.installed:
        return
    assert peer.documentation
    pins = (REQUIREMENTS / f"{peer.name}.txt").read_text().splitlines()
    assert all("==" in line for line in pins)
    assert any(line.lower().startswith(f"{peer.distribution}==") for line in pins)


def test_the_peers_have_one_engine():
    pins = {
        line.split(" ")[0]
        for file in REQUIREMENTS.glob("*.txt")
        for line in file.read_text().splitlines()
        if line.startswith(("openvino==", "numpy==", "pillow=="))
    }
    assert len(pins) == 3, pins
