"""The one page of metrics."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

PAGES = Path(__file__).parent / "pages"
PORT = 8002


@pytest.fixture
def pages():
    """Serves /triton.txt, /envoy.txt and /huge; yields the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            huge = self.path == "/huge"
            self.wfile.write(b"m 1\n" * 200 if huge else (PAGES / self.path[1:]).read_bytes())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _scrape(gateway):
    answer = gateway.get("/metrics", port=PORT)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def test_metrics_are_on_a_port_of_their_own(gateway):
    assert gateway.get("/metrics", port=PORT).status == 404
    gateway.set(metrics_port=PORT)
    assert gateway.get("/metrics").status == 404
    assert gateway.get("/metrics", port=PORT).status == 200
    assert gateway.get("/classify", port=PORT).status == 404
    assert gateway.get("/healthz", port=PORT).status == 200


def test_requests_and_images_are_counted(gateway, encode):
    gateway.set(metrics_port=PORT)
    gateway.post("/classify", encode())
    gateway.post("/classify", b"not an image")
    gateway.post("/classify?model=other", encode())
    gateway.get("/" + "x" * 50)
    samples = _scrape(gateway)
    requests = "delugeserve_gateway_requests_total"
    assert samples[requests, ("path", "/classify"), ("status", "200")] == 1
    assert samples[requests, ("path", "/classify"), ("status", "400")] == 1
    assert samples[requests, ("path", "/classify"), ("status", "404")] == 1
    assert samples[requests, ("path", "other"), ("status", "404")] == 1
    images = "delugeserve_gateway_images_total", ("model", "colour")
    assert samples[(*images, ("status", "200"), ("version", "1"))] == 1
    assert samples[(*images, ("status", "400"), ("version", ""))] == 1
    assert samples["delugeserve_gateway_request_seconds_count", ("path", "/classify")] == 3
    assert samples["delugeserve_gateway_requests_in_flight",] == 0


def test_servers_and_envoy_are_on_the_same_page_and_a_dead_server_does_not_break_it(gateway, pages):
    replicas = {"replica-1": f"{pages}/triton.txt", "replica-2": "http://127.0.0.1:9/metrics"}
    gateway.set(metrics_port=PORT, replicas=replicas, envoy=f"{pages}/envoy.txt")
    samples = _scrape(gateway)
    up = "delugeserve_scrape_up"
    assert {key[1][1]: value for key, value in samples.items() if key[0] == up} == {
        "replica-1": 1, "replica-2": 0, "envoy": 1
    }  # fmt: skip
    assert samples[
        "nv_inference_request_success_total",
        ("model", "colour"), ("replica", "replica-1"), ("version", "1"),
    ] == 7  # fmt: skip
    buckets = [key for key in samples if key[0] == "envoy_cluster_upstream_rq_time_bucket"]
    assert len(buckets) > 10
    assert not [key for key in samples if key[0].startswith("envoy_listener_admin")]
    assert not [key for key in samples if any(label[1] == "admin" for label in key[1:])]


def test_a_page_without_end_is_given_up(gateway, pages, monkeypatch):
    monkeypatch.setattr("delugeserve.serving.gateway.metrics._MOST_BYTES", 700)
    gateway.set(metrics_port=PORT, replicas={"replica-1": f"{pages}/huge"})
    assert _scrape(gateway)["delugeserve_scrape_up", ("source", "replica-1")] == 0
