import asyncio
import socket

import pytest

from delugeserve_client import AsyncClassifier, Classifier
from delugeserve_client.address import Address
from delugeserve_client.errors import ServerTimeout, ServerUnavailable
from delugeserve_client.explaining import failure_of, to_error
from delugeserve_client.proxies import find_proxy, is_loopback

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")
DEAD = "http://me:secret@127.0.0.1:9"  # nothing listens on the discard port


def explain(error, address, timeout):
    return to_error(failure_of(error), address, timeout)


@pytest.fixture
def environment(monkeypatch):
    """Sets the variables given, and removes the others."""

    def change(**values):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    change()
    return change


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "a.localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"]
)
def test_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["localhost.example", "10.0.0.1", "::2", "128.0.0.1", "gpu"])
def test_not_loopback(host):
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({}, None),
        ({"http_proxy": DEAD}, "http_proxy"),
        ({"http_proxy": DEAD, "https_proxy": DEAD}, "https_proxy"),
        ({"http_proxy": DEAD, "https_proxy": DEAD, "grpc_proxy": DEAD}, "grpc_proxy"),
        ({"http_proxy": DEAD, "grpc_proxy": ""}, None),
        ({"HTTP_PROXY": DEAD}, None),
        ({"http_proxy": "socks5://127.0.0.1:9"}, None),
        ({"http_proxy": "127.0.0.1:9"}, None),
        ({"http_proxy": DEAD, "no_proxy": "localhost, gpu.example"}, None),
        ({"http_proxy": DEAD, "no_proxy": ".example"}, None),
        ({"http_proxy": DEAD, "no_proxy": "*"}, None),
        ({"http_proxy": DEAD, "no_proxy": "u.example,10.0.0.0/8"}, "http_proxy"),
        ({"http_proxy": DEAD, "no_proxy": "gpu.example", "no_grpc_proxy": ""}, "http_proxy"),
    ],
)
def test_the_proxy_that_grpc_uses(environment, values, found):
    environment(**values)
    proxy = find_proxy("gpu.example:8001")
    assert (proxy and proxy.variable) == found
    if proxy:
        assert proxy.url == "http://127.0.0.1:9"
    assert find_proxy("localhost:8001") is None
    assert find_proxy("[::1]:8001") is None


def test_networks_without_proxy(environment):
    environment(http_proxy=DEAD, no_proxy="10.0.0.0/8,fd00::/8,nonsense/9")
    assert find_proxy("10.1.2.3:8001") is None
    assert find_proxy("[fd00::1]:8001") is None
    assert find_proxy("11.1.2.3:8001") is not None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("kind", [Classifier, AsyncClassifier])
def test_loopback_is_not_asked_through_a_proxy(environment, host, kind):
    with listener() as server, listener() as proxy:
        proxy_url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        environment(grpc_proxy=proxy_url, http_proxy=proxy_url)
        with pytest.raises(ServerTimeout) as caught:
            connect(kind, f"{host}:{server.getsockname()[1]}")
        assert caught.value.proxy == ""
        server.accept()
        with pytest.raises(BlockingIOError):
            proxy.accept()


def listener():
    """Return a socket to connect to, at which nothing ever answers."""
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    return server


def connect(kind, url):
    if kind is Classifier:
        Classifier(url, timeout=0.2)
    else:
        asyncio.run(AsyncClassifier(url, timeout=0.2).connect())


def test_other_machines_are_asked_through_it(environment):
    environment(http_proxy=DEAD, no_proxy="localhost")
    with pytest.raises(ServerUnavailable) as caught:
        Classifier("gpu.example:8001", timeout=2)
    assert caught.value.proxy == "http://127.0.0.1:9"
    assert "http://127.0.0.1:9 (http_proxy)" in caught.value.problem
    assert "export no_proxy=localhost,gpu.example" in caught.value.remedy
    assert "secret" not in str(caught.value)


def test_http_uses_no_proxy(environment):
    environment(http_proxy=DEAD)
    error = explain(ConnectionRefusedError(), Address("gpu.example:8000", "http"), 1)
    assert isinstance(error, ServerUnavailable)
    assert error.proxy == ""
    assert "without the proxy http://127.0.0.1:9" in error.problem
    assert "gRPC" in error.remedy
    timeout = explain(TimeoutError(), Address("gpu.example:8000", "http"), 1)
    assert (type(timeout), timeout.proxy) == (ServerTimeout, "")


def test_a_proxy_that_hangs(environment):
    environment(http_proxy=DEAD)
    error = explain(TimeoutError(), Address("gpu.example:8001", "grpc"), 1)
    assert (type(error), error.proxy) == (ServerTimeout, "http://127.0.0.1:9")
    assert "(http_proxy)" in error.problem
    assert "export no_proxy=gpu.example" in error.remedy


@pytest.mark.parametrize(
    ("address", "command"),
    [
        (Address("localhost:8001", "grpc"), "delugeserve serve"),
        (Address("127.0.0.1:9001", "grpc"), "delugeserve serve --grpc-port 9001"),
        (Address("localhost:8000", "http"), "delugeserve serve"),
        (Address("localhost:9000", "http"), "delugeserve serve --http-port 9000"),
    ],
)
def test_the_command_that_starts_a_server_there(environment, address, command):
    assert explain(ConnectionRefusedError(), address, 1).remedy.endswith(f": {command}")


def test_the_remedy_for_another_machine(environment):
    error = explain(ConnectionRefusedError(), Address("gpu.example:9001", "grpc"), 1)
    assert "9001" in error.remedy
    assert "delugeserve serve" not in error.remedy
