"""Encoded images to the real server, and the requests of Triton's own image clients."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delugeserve.serving.supervisor import serve
from delugeserve_client import Classifier, ImageError, UnsuitableModel

grpc = pytest.importorskip("tritonclient.grpc")
http = pytest.importorskip("tritonclient.http")
if shutil.which("tritonserver") is None:
    pytest.importorskip("pytriton.constants", reason="there is no tritonserver (nvidia-pytriton)")


@pytest.fixture(scope="module")
def repository(exported, tmp_path_factory):
    return shutil.copytree(exported, tmp_path_factory.mktemp("served") / "model_repository")


@pytest.fixture(scope="module")
def server(repository):
    with serve(repository, grpc_port=0, http_port=0, metrics_port=None, direct=True) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with grpc.InferenceServerClient(server.grpc_url) as client:
        yield client


def photo(seed: int = 0, kind: str = "JPEG") -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).resize((500, 375)).save(stream, kind)
    return stream.getvalue()


def classify(module, client, images, classes=0):
    tensor = module.InferInput("image", [len(images), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(images, object).reshape(-1, 1))
    wanted = [module.InferRequestedOutput("probabilities", class_count=classes)]
    return client.infer("tiny_image", [tensor], outputs=wanted).as_numpy("probabilities")


def test_encoded_images_get_what_the_client_gets(server, client):
    images = [photo(seed, kind) for seed, kind in enumerate(("JPEG", "PNG", "WEBP", "GIF"))]
    with Classifier(server.grpc_url) as classifier:
        assert classifier.model.name == "tiny"  # though the server has three models
        pixels = np.stack([classifier.model.preprocessing(image) for image in images])
        expected = classifier.infer(pixels)
        labels = [one.predictions[0].label for one in classifier.classify(images)]
    np.testing.assert_array_equal(classify(grpc, client, images), expected)
    strings = classify(grpc, client, images, classes=2)
    assert [row[0].decode().split(":")[2] for row in strings] == labels
    over_http = http.InferenceServerClient(server.http_url)
    np.testing.assert_array_equal(classify(http, over_http, images), expected)
    over_http.close()


def test_damaged_images_fail_alone(client):
    good, expected = photo(), classify(grpc, client, [photo()])
    bad = [good[:900], b"no picture", b"", b"\x89PNG\r\n\x1a\n" + bytes(99), bytes(10_000)]

    def ask(image):
        try:
            return classify(grpc, client, [image])
        except grpc.InferenceServerException as error:
            return error

    images = list(islice(cycle([good, *bad]), 60))
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, images))
    for image, answer in zip(images, answers, strict=True):
        if image == good:
            np.testing.assert_array_equal(answer, expected)
        else:
            assert answer.status() == "StatusCode.INVALID_ARGUMENT"
            assert answer.message().startswith("in ensemble 'tiny_image', The image ")
            assert not any(word in answer.message() for word in ("Traceback", ".py", "BytesIO"))


def test_the_images_of_a_request_may_fail_alone(client):
    images = [photo(), b"no picture", photo(1)]
    tensor = grpc.InferInput("image", [3, 1], "BYTES")
    tensor.set_data_from_numpy(np.array(images, object).reshape(-1, 1))
    found = client.infer("tiny_image", [tensor], parameters={"on_error": "return"})
    errors = [text.decode() for text in found.as_numpy("error")[:, 0]]
    assert errors[0] == errors[2] == ""
    assert errors[1].startswith("Image 2 is not an image")
    probabilities = found.as_numpy("probabilities")[[0, 2]]
    np.testing.assert_array_equal(probabilities, classify(grpc, client, [photo(), photo(1)]))
    with pytest.raises(grpc.InferenceServerException, match="Image 2"):
        client.infer("tiny_image", [tensor])


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_decoding_here_and_there_gives_the_same(server, protocol, tmp_path):
    url = server.grpc_url if protocol == "grpc" else f"http://{server.http_url}"
    (tmp_path / "a.jpg").write_bytes(photo(5))
    good = [photo(seed, kind) for seed, kind in enumerate(("JPEG", "PNG", "WEBP", "GIF"))]
    images = [
        *good,
        tmp_path / "a.jpg",
        photo()[:900],
        b"no picture",
        tmp_path / "missing.jpg",
        Image.open(io.BytesIO(photo(6))),
        io.BytesIO(photo(7)),
        bytearray(photo(8)),
        memoryview(photo(9)),
        np.asarray(Image.open(io.BytesIO(photo(10)))),
    ]

    def outcome(result):
        error = result.error
        return result.source, result.predictions, error and (error.problem, error.remedy)

    found = {}
    for decode in ("client", "server"):
        images[9].seek(0)
        with Classifier(url, decode=decode) as classifier:
            assert len(classifier.model.digest) == 16
            found[decode] = list(map(outcome, classifier.classify(images, on_error="return")))
            assert classifier.classify(photo(5)).predictions == found[decode][4][1]
            with pytest.raises(ImageError):
                classifier.classify([photo(), b"no picture"])
    assert found["client"] == found["server"]
    assert sum(error is not None for *_, error in found["client"]) == 3


def test_the_faster_place_is_found_on_a_long_stream(server):
    images = [photo(seed) for seed in range(8)] * 6
    with Classifier(server.grpc_url) as classifier:
        results = classifier.classify(images)
        choice = classifier._choice
    assert choice.next_trial is None
    assert [len(times) for times in choice.seconds.values()] == [2, 2]
    assert [one.predictions for one in results[:8]] == [one.predictions for one in results[-8:]]
    assert [one.source for one in results] == [f"image {n}" for n in range(1, 49)]


PROGRAMS = {
    "classify.sh": (("bash",), "http"),
    "Classify.java": (("java",), "http"),
    "classify.go": (("go", "run"), "http"),
    "tritonclient_image.py": ((sys.executable,), "grpc"),
}


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_programs_without_this_client(server, name, tmp_path):
    program, protocol = PROGRAMS[name]
    if shutil.which(program[0]) is None:
        pytest.skip(f"there is no {program[0]}")
    file = tmp_path / "a.jpg"
    file.write_bytes(photo())
    with Classifier(server.grpc_url) as classifier:
        label = classifier.classify(file).top.label
    arguments: tuple[str, ...] = (f"http://{server.http_url}", "tiny")
    if protocol == "grpc":
        arguments = ("--url", server.grpc_url, "--model", "tiny")
    script = Path(__file__).parents[2] / "clients" / "examples" / name
    run = [*program, script, file, *arguments]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert label in done.stdout
    file.write_bytes(b"no picture")
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode != 0
    assert "not an image" in done.stdout + done.stderr


def test_the_client_names_the_model_to_ask(server):
    with pytest.raises(UnsuitableModel, match="Use the model 'tiny'"):
        Classifier(server.grpc_url, "tiny_image")


def test_one_output_as_tritons_clients_want_it(client):
    """image_client.py and grpc_image_client.py refuse anything else before they send an image."""
    metadata, config = client.get_model_metadata("tiny"), client.get_model_config("tiny").config
    assert len(metadata.inputs) == len(metadata.outputs) == len(config.input) == 1
    assert metadata.outputs[0].datatype == "FP32"
    assert [size for size in metadata.outputs[0].shape[1:] if size > 1] == [10]
    assert config.max_batch_size == 8
    assert len(metadata.inputs[0].shape) == 4
    assert config.input[0].format == type(config.input[0]).FORMAT_NHWC


def test_the_request_of_grpc_image_client(client):
    """It sends raw bytes, and reads the strings of the classification extension."""
    pb2 = grpc.service_pb2
    request = pb2.ModelInferRequest(model_name="tiny", model_version="")
    output = request.outputs.add(name="probabilities")
    output.parameters["classification"].int64_param = 3
    request.inputs.add(name="image", datatype="UINT8", shape=[2, 32, 32, 3])
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    request.raw_input_contents.append(pixels.tobytes())
    response = client._client_stub.ModelInfer(request)
    assert len(response.outputs) == len(response.raw_output_contents) == 1
    strings, content = [], response.raw_output_contents[0]
    while content:
        (length,) = struct.unpack_from("<I", content)
        strings.append(content[4 : 4 + length].decode())
        content = content[4 + length :]
    assert list(response.outputs[0].shape) == [2, 3]
    assert len(strings) == 6
    assert all(len(text.split(":")) == 3 for text in strings)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_request_of_image_client(server, protocol):
    module = {"grpc": grpc, "http": http}[protocol]
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    with module.InferenceServerClient(getattr(server, f"{protocol}_url")) as client:
        tensor = module.InferInput("image", list(pixels.shape), "UINT8")
        tensor.set_data_from_numpy(pixels)
        wanted = [module.InferRequestedOutput("probabilities", class_count=1)]
        found = client.infer("tiny", [tensor], outputs=wanted, request_id="1", model_version="")
    rows = found.as_numpy("probabilities")
    assert rows.shape == (3, 1)
    # It joins the bytes of a string as characters.
    assert all(len("".join(chr(one) for one in row[0]).split(":")) == 3 for row in rows)


def test_verifying_through_a_server_without_logits(server, repository, run):
    status, out, err = run("verify", repository / "tiny", "--url", server.grpc_url)
    assert status == 0, err
    assert "tiny" in out


def test_nothing_is_written_into_the_repository(server, repository):
    assert not list(repository.rglob("__pycache__"))
