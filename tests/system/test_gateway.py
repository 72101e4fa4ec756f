"""The gateway behind a real Envoy, in front of a real server."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the gateway needs the extra 'server'")
pytest.importorskip("onnx", reason="the test model needs the extra 'export'")
pytest.importorskip("pytriton.constants", reason="there is no tritonserver (nvidia-pytriton)")

from delugeserve.serving import ports
from delugeserve.serving.front.front import start_front
from delugeserve.serving.front.installation import find_envoy
from delugeserve.serving.front.settings import FrontSettings, Routing, Upstream
from delugeserve.serving.gateway.settings import GatewaySettings
from delugeserve.serving.supervisor import serve

pytestmark = pytest.mark.system

NAMES = Path(__file__).parents[1] / "deploy" / "metric_names.txt"
STATUS = {
    "release": {"id": "r1", "versions": {"colour": 1}},
    "replicas": [{"name": "replica-1", "state": "active", "release": "r1", "memory_bytes": 1}],
    "parts": [{"name": "front", "running": True, "starts": 1}],
    "counters": {"replica.lost": 1},
}
HANG = 240  # seconds after which it counts as hung; nothing depends on it


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory, write_colour_model):
    """Ports of Envoy's HTTP and of the metrics, with everything behind them."""
    folder = tmp_path_factory.mktemp("gateway")
    write_colour_model(folder / "repository" / "colour")
    ports_free = ports.claim("127.0.0.1", {"grpc": 0, "http": 0, "metrics": 0})
    gateway = ports.claim("127.0.0.1", {"http": 0})
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            serve(folder / "repository", grpc_port=0, http_port=0, metrics_port=0)
        )
        replica = Upstream("replica-1", _port(server.grpc_url), _port(server.http_url))
        settings = FrontSettings(
            "127.0.0.1", ports_free["grpc"], ports_free["http"], gateway["http"]
        )
        front = start_front(find_envoy(), settings, Routing((replica,)))
        stack.callback(front.stop, drain=False)
        (folder / "status.json").write_text(json.dumps(STATUS))
        GatewaySettings(
            f"127.0.0.1:{front.internal_port}",
            gateway["http"],
            metrics_port=ports_free["metrics"],
            replicas={"replica-1": server.metrics_url},
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
        yield ports_free["http"], ports_free["metrics"]


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


def test_an_image_gets_its_class(endpoint):
    port, _ = endpoint
    for colour, label in (("red", "red"), ("blue", "blue")):
        status, body = _ask(port, "POST", "/classify?top_k=99", _image(colour))
        answer = json.loads(body)
        assert (status, answer["version"]) == (200, "1"), body
        assert answer["predictions"][0]["label"] == label
        assert len(answer["predictions"]) == 3


def test_errors_are_json_through_the_proxy(endpoint):
    port, _ = endpoint
    for path, status in (("/classify", 400), ("/classify?model=color", 404), ("/metrics", 404)):
        found, body = _ask(port, "POST", path, b"not an image")
        assert found == status, body


def test_health_is_asked_through_the_proxy(endpoint):
    port, _ = endpoint
    assert _ask(port, "GET", "/healthz")[0] == 200
    status, body = _ask(port, "GET", "/readyz")
    assert (status, json.loads(body)["models"]["colour"]["version"]) == (200, "1")
    status, body = _ask(port, "GET", "/models")
    assert [model["name"] for model in json.loads(body)["models"]] == ["colour"]


def test_one_page_has_the_metrics_of_all(endpoint):
    port, metrics = endpoint
    _ask(port, "POST", "/classify", _image("red"))
    status, body = _ask(metrics, "GET", "/metrics")
    assert status == 200
    text = body.decode()
    found = {re.split(r"[{ ]", line)[0] for line in text.splitlines() if line[0] != "#"}
    listed = set(NAMES.read_text().split())
    assert listed - found == set(), "tests of the dashboard and of the alerts rely on these"
    assert 'delugeserve_scrape_up{source="replica-1"} 1' in text
    assert 'delugeserve_scrape_up{source="envoy"} 1' in text
