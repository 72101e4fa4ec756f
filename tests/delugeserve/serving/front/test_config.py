"""The configuration of Envoy, checked by Envoy itself."""

from __future__ import annotations

import json
import subprocess

import pytest

from delugeserve.serving.front.clusters import CANARY, REPLICAS
from delugeserve.serving.front.config import DnsRouting, FileRouting, LoopbackPorts, envoy_config
from delugeserve.serving.front.routing_files import Assignment, RoutingFiles
from delugeserve.serving.front.settings import FrontSettings, Upstream

SETTINGS = FrontSettings("127.0.0.1", 8001, 8000, 8003)
A, B, C = (Upstream(name, 9000 + 10 * i, 9001 + 10 * i) for i, name in enumerate("abc"))


@pytest.fixture
def validate(envoy, tmp_path):
    def validate(config) -> None:
        path = tmp_path / "envoy.json"
        path.write_text(json.dumps(config))
        command = [envoy, "--mode", "validate", "--disable-hot-restart", "-c", path]
        done = subprocess.run([*command, "-l", "warning"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "eprecated" not in done.stderr

    return validate


def listeners(config):
    return [listener["name"] for listener in config["static_resources"]["listeners"]]


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        FrontSettings("::", 8001, 8000, None),
        FrontSettings("0.0.0.0", 8001, None, None),
    ],
    ids=["all", "ipv6", "grpc-only"],
)
def test_on_this_machine(settings, validate, tmp_path):
    files = RoutingFiles(tmp_path, settings)
    files.write_endpoints(Assignment(((A,), (B,))), Assignment(()))
    files.write_routes(0.0)
    config = envoy_config(
        settings, FileRouting(tmp_path), LoopbackPorts(8005, 8006), tmp_path / "admin"
    )
    validate(config)
    http = ["http"] if settings.http_port else []
    assert listeners(config) == ["grpc", *http, "internal", "stats"]


def test_in_a_cluster(validate):
    config = envoy_config(SETTINGS, DnsRouting("triton-headless", 8001, 8000))
    validate(config)
    assert listeners(config) == ["grpc", "http"]
    assert "admin" not in config
    names = [cluster["name"] for cluster in config["static_resources"]["clusters"]]
    assert names == [REPLICAS, f"{REPLICAS}-http", "gateway"]


def endpoints(tmp_path, cluster):
    (message,) = json.loads((tmp_path / f"endpoints-{cluster}.json").read_text())["resources"]
    assert message["cluster_name"] == cluster
    return [
        (
            locality["priority"],
            [
                one["endpoint"]["address"]["socket_address"]["port_value"]
                for one in locality["lb_endpoints"]
            ],
            {one.get("health_status") for one in locality["lb_endpoints"]},
        )
        for locality in message["endpoints"]
    ]


def test_priorities(tmp_path):
    files = RoutingFiles(tmp_path, SETTINGS)
    files.write_endpoints(Assignment(((A,), (B,)), (C,)), Assignment(()))
    assert endpoints(tmp_path, REPLICAS) == [
        (0, [9000], {None}),
        (1, [9010], {None}),
        (2, [9020], {"DRAINING"}),
    ]
    assert [ports for _, ports, _ in endpoints(tmp_path, f"{REPLICAS}-http")] == [
        [9001],
        [9011],
        [9021],
    ]
    assert endpoints(tmp_path, CANARY) == []


def test_priorities_have_no_gap(tmp_path):
    files = RoutingFiles(tmp_path, SETTINGS)
    files.write_endpoints(Assignment(((), (B,))), Assignment(((C,), (), (B,))))
    assert [priority for priority, _, _ in endpoints(tmp_path, REPLICAS)] == [0]
    assert [priority for priority, _, _ in endpoints(tmp_path, CANARY)] == [0, 1]
