"""How the workloads are put into requests, and how answers are read."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping

import numpy as np

from benchmarks.peers.interface import Form, Model

_OCTETS, _JSON = "application/octet-stream", "application/json"
_LENGTH = "Inference-Header-Content-Length"


def vector(pairs: Iterable[tuple[int, float]], classes: int) -> bytes:
    """Return probabilities by class from pairs of a class and its probability."""
    found = np.zeros(classes, np.float32)
    for index, probability in pairs:
        found[index] = probability
    return found.tobytes()


def _image(_: Model, image: bytes) -> bytes:
    return image


def _floats(answer: bytes, _: int) -> bytes:
    return answer


def _predictions(answer: bytes, classes: int) -> bytes:
    listed = json.loads(answer)["predictions"]
    return vector(((one["index"], one["probability"]) for one in listed), classes)


def _base64(_: Model, image: bytes) -> bytes:
    return json.dumps({"image": base64.b64encode(image).decode()}).encode()


# The image is the body.
PLAIN_PIXELS = Form("/pixels", _image, _floats, _OCTETS)
PLAIN_JPEG = Form("/classify", _image, _predictions, "image/jpeg")

# The image is a string in JSON.
JSON_PIXELS = Form("/predict", _base64, _floats, _JSON)
JSON_JPEG = Form("/predict", _base64, _predictions, _JSON)


def _base64_list(_: Model, image: bytes) -> bytes:
    return json.dumps({"images": [base64.b64encode(image).decode()]}).encode()


def _first_floats(answer: bytes, _: int) -> bytes:
    return np.asarray(json.loads(answer)[0], np.float32).tobytes()


def _first_predictions(answer: bytes, classes: int) -> bytes:
    (listed,) = json.loads(answer)
    return vector(((one["index"], one["probability"]) for one in listed), classes)


# A list of one image.
LIST_PIXELS = Form("/pixels", _base64_list, _first_floats, _JSON)
LIST_JPEG = Form("/classify", _base64_list, _first_predictions, _JSON)


# The inference protocol, version 2, in JSON: https://github.com/open-inference/open-inference-protocol
def _tensor(_: Model, image: bytes) -> bytes:
    tensor = {
        "name": "image",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(image).decode()],
    }
    return json.dumps({"inputs": [tensor]}).encode()


def _outputs(answer: bytes) -> Mapping[str, list[float]]:
    return {one["name"]: one["data"] for one in json.loads(answer)["outputs"]}


def _tensor_floats(answer: bytes, _: int) -> bytes:
    return np.asarray(_outputs(answer)["probabilities"], np.float32).tobytes()


def _tensor_predictions(answer: bytes, classes: int) -> bytes:
    found = _outputs(answer)
    pairs = zip(found["index"], found["probability"], strict=True)
    return vector(((int(index), value) for index, value in pairs), classes)


V2_PIXELS = Form("/v2/models/{model}/infer", _tensor, _tensor_floats, _JSON)
V2_JPEG = Form("/v2/models/{model}/infer", _tensor, _tensor_predictions, _JSON)


def _element(_: Model, image: bytes) -> bytes:
    return len(image).to_bytes(4, "little") + image


# The same over gRPC, where tensors may be raw bytes.
V2_GRPC = Form("", _element, _floats, _OCTETS)

# Our gateway.
GATEWAY_JPEG = Form("/classify?model={model}&top_k={top_k}", _image, _predictions, "image/jpeg")


# Triton's binary tensor data extension of the inference protocol, version 2:
# https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
def _binary_head(model: Model) -> bytes:
    size = int(np.prod(model.shape))
    tensor = {
        "name": "image",
        "shape": [1, *model.shape],
        "datatype": "UINT8",
        "parameters": {"binary_data_size": size},
    }
    wanted = {"name": "probabilities", "parameters": {"binary_data": True}}
    return json.dumps({"inputs": [tensor], "outputs": [wanted]}, separators=(",", ":")).encode()


def _binary(model: Model, image: bytes) -> bytes:
    return _binary_head(model) + image


def _binary_headers(model: Model) -> Mapping[str, str]:
    return {_LENGTH: str(len(_binary_head(model)))}


def _last_floats(answer: bytes, classes: int) -> bytes:
    return answer[-4 * classes :]


TRITON_PIXELS = Form("/v2/models/{model}/infer", _binary, _last_floats, _OCTETS, _binary_headers)
