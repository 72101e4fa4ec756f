"""The gateway behind a real Envoy, in front of a real server."""

from __future__ import annotations

import contextlib
import http.client
import io
import itertools
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the gateway needs the extra 'server'")
pytest.importorskip("onnx", reason="the test model needs the extra 'export'")
pytest.importorskip("pytriton.constants", reason="there is no tritonserver (nvidia-pytriton)")

from asgi import multipart

from delugeserve.serving import ports
from delugeserve.serving.front.front import start_front
from delugeserve.serving.front.installation import find_envoy
from delugeserve.serving.front.settings import FrontSettings, Routing, Upstream
from delugeserve.serving.gateway.settings import GatewaySettings
from delugeserve.serving.supervisor import serve
from delugeserve_client import Classifier

pytestmark = pytest.mark.system

NAMES = Path(__file__).parents[1] / "deploy" / "metric_names.txt"
STATUS = {
    "release": {"id": "r1", "versions": {"colour": 1}},
    "replicas": [{"name": "replica-1", "state": "active", "release": "r1", "memory_bytes": 1}],
    "parts": [{"name": "front", "running": True, "starts": 1}],
    "counters": {"replica.lost": 1},
}
HANG = 240  # seconds after which it counts as hung; nothing depends on it


class Endpoint(NamedTuple):
    http: int
    grpc: int
    metrics: int


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory, write_colour_model, exported):
    """Ports of Envoy's HTTP, of its gRPC, and of the metrics, with everything behind them.

    The model ``tiny`` has an ensemble that decodes images, the model ``colour`` has none.
    """
    folder = tmp_path_factory.mktemp("gateway")
    shutil.copytree(exported, folder / "repository")
    write_colour_model(folder / "repository" / "colour")
    ports_free = ports.claim("127.0.0.1", {"grpc": 0, "http": 0, "metrics": 0})
    gateway = ports.claim("127.0.0.1", {"http": 0})
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            serve(folder / "repository", grpc_port=0, http_port=0, metrics_port=0, direct=True)
        )
        replica = Upstream("replica-1", _port(server.grpc_url), _port(server.http_url))
        settings = FrontSettings(
            "127.0.0.1", ports_free["grpc"], ports_free["http"], gateway["http"]
        )
        front = start_front(find_envoy(), settings, Routing((replica,)))
        stack.callback(front.stop, drain=False)
        (folder / "status.json").write_text(json.dumps(STATUS))
        (folder / "replicas.json").write_text(json.dumps({replica.name: replica.grpc_address}))
        GatewaySettings(
            f"127.0.0.1:{front.internal_port}",
            gateway["http"],
            metrics_port=ports_free["metrics"],
            replicas={"replica-1": server.metrics_url},
            direct=str(folder / "replicas.json"),
            status=str(folder / "status.json"),
            envoy=f"http://127.0.0.1:{front.admin_port}/stats/prometheus",
        ).write(folder / "settings.json")
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "delugeserve.serving.gateway",
                "--settings",
                folder / "settings.json",
            ]
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        _wait_for(gateway["http"], process)
        yield Endpoint(ports_free["http"], ports_free["grpc"], ports_free["metrics"])


def _port(url):
    return int(url.rpartition(":")[2])


def _wait_for(port, process):
    deadline = time.monotonic() + HANG
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            return socket.create_connection(("127.0.0.1", port)).close()
        time.sleep(0.02)
    raise AssertionError("the gateway does not answer")


def _ask(port, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read()


def _image(colour, kind="JPEG"):
    file = io.BytesIO()
    Image.new("RGB", (90, 60), colour).save(file, kind)
    return file.getvalue()


def test_an_image_gets_its_class_decoded_by_the_gateway(endpoint):
    for colour in ("red", "blue"):
        status, body = _ask(
            endpoint.http, "POST", "/classify?model=colour&top_k=99", _image(colour)
        )
        answer = json.loads(body)
        assert (status, answer["version"]) == (200, "1"), body
        assert answer["predictions"][0]["label"] == colour
        assert len(answer["predictions"]) == 3


@pytest.mark.parametrize("kib", [60, 70, 200, 1500])
def test_an_image_of_any_size_of_file_is_answered(endpoint, kib):
    """Whether it comes in one read or in many."""
    image = _image("red", "PNG") + bytes(kib * 1024)  # what follows an image is not read
    for _ in range(3):
        assert _ask(endpoint.http, "POST", "/classify?model=tiny", image)[0] == 200


def test_an_image_gets_the_class_that_it_gets_from_the_client(endpoint):
    image = _image("red")
    status, body = _ask(endpoint.http, "POST", "/classify?model=tiny&top_k=99", image)
    assert status == 200, body
    found = {item["label"]: item["probability"] for item in json.loads(body)["predictions"]}
    with Classifier(f"localhost:{endpoint.grpc}", "tiny") as classifier:
        (expected,) = classifier.classify([image], top_k=99)
    assert len(found) == 10
    for item in expected.predictions:
        assert found[item.label] == pytest.approx(item.probability, abs=1e-5)


def test_errors_are_json_through_the_proxy(endpoint):
    for path, body, status in (
        ("/classify?model=colour", b"not an image", 400),
        ("/classify?model=tiny", b"not an image", 400),
        ("/classify?model=tiny", _image("red")[:400], 400),
        ("/classify", _image("red"), 422),
        ("/classify?model=color", _image("red"), 404),
        ("/metrics", b"", 404),
    ):
        found, answer = _ask(endpoint.http, "POST", path, body)
        assert found == status, answer
        assert json.loads(answer)["error"].endswith(".")


def test_an_image_that_cannot_be_decoded_fails_alone(endpoint):
    headers, body = multipart(("image", "a", _image("red")), ("image", "b", _image("red")[:300]))
    status, answer = _ask(endpoint.http, "POST", "/classify?model=tiny", body, headers)
    good, bad = json.loads(answer)["results"]
    assert (status, bad["status"], good["version"]) == (200, 400, "1")


def test_health_is_asked_through_the_proxy(endpoint):
    assert _ask(endpoint.http, "GET", "/healthz")[0] == 200
    status, body = _ask(endpoint.http, "GET", "/readyz")
    versions = {name: model["version"] for name, model in json.loads(body)["models"].items()}
    assert (status, versions) == (200, {"colour": "1", "tiny": "1"})
    models = json.loads(_ask(endpoint.http, "GET", "/models")[1])["models"]
    assert {model["name"]: model["decoded_by"] for model in models} == dict.fromkeys(
        ("colour", "tiny"), "gateway"
    )


def test_hostile_requests_get_their_errors_and_harm_nobody(endpoint, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from hostile import Target, hostile_requests
    from hostile.sending import send, send_grpc

    channel = grpc.insecure_channel(f"127.0.0.1:{endpoint.grpc}")
    good = _image("red")
    with contextlib.closing(channel):
        requests = hostile_requests(5, Target("tiny", large=False))
        for request in itertools.islice(requests, 60):
            if request.protocol == "grpc":
                status, text = send_grpc(channel, request)
            else:
                status, body = send(("127.0.0.1", endpoint.http), request)
                text = body.decode(errors="replace")
            assert status in request.expected, (request.protocol, request.kind, text[:300])
            assert not re.search(r"Traceback|site-packages|model\.py|/tmp/", text), text
            assert _ask(endpoint.http, "POST", "/classify?model=tiny", good)[0] == 200


def test_one_page_has_the_metrics_of_all(endpoint):
    _ask(endpoint.http, "POST", "/classify?model=tiny", _image("red"))
    status, body = _ask(endpoint.metrics, "GET", "/metrics")
    assert status == 200
    text = body.decode()
    found = {re.split(r"[{ ]", line)[0] for line in text.splitlines() if line[0] != "#"}
    listed = set(NAMES.read_text().split())
    assert listed - found == set(), "tests of the dashboard and of the alerts rely on these"
    assert 'delugeserve_scrape_up{source="replica-1"} 1' in text
    assert 'delugeserve_scrape_up{source="envoy"} 1' in text
