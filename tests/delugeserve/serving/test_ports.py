"""Choosing and checking ports."""

from __future__ import annotations

import socket

import pytest

from delugeserve.errors import PortError, UsageError
from delugeserve.serving import ports


@pytest.fixture
def taken():
    with socket.socket() as listener:
        listener.bind((ports.LOOPBACK, 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_every_zero_becomes_another_free_port():
    chosen = ports.claim(ports.LOOPBACK, {"grpc": 0, "http": 0, "metrics": None})
    assert chosen["metrics"] is None
    assert len({chosen["grpc"], chosen["http"], 0}) == 3
    for endpoint in ("grpc", "http"):
        with socket.socket() as probe:
            probe.bind((ports.LOOPBACK, chosen[endpoint]))


def test_a_free_port_is_kept():
    free = ports.claim(ports.LOOPBACK, {"grpc": 0})["grpc"]
    assert ports.claim(ports.LOOPBACK, {"grpc": free, "http": 0})["grpc"] == free


@pytest.mark.parametrize(
    ("endpoint", "wanted", "port"),
    [
        ("metrics", {"grpc": 0, "http": 5999, "metrics": 5999}, 5999),
        ("grpc", {"grpc": 70000}, 70000),
    ],
    ids=["given twice", "too large"],
)
def test_a_port_that_cannot_be_used(endpoint, wanted, port):
    with pytest.raises(PortError) as caught:
        ports.claim(ports.LOOPBACK, wanted)
    assert (caught.value.port, caught.value.endpoint) == (port, endpoint)
    assert f"--{endpoint}-port" in caught.value.remedy


def test_a_port_in_use(taken):
    with pytest.raises(PortError) as caught:
        ports.claim(ports.LOOPBACK, {"grpc": 0, "http": taken})
    assert (caught.value.port, caught.value.endpoint) == (taken, "http")
    assert caught.value.exit_code == 2


def test_an_address_of_another_machine():
    with pytest.raises(UsageError, match=r"192\.0\.2\.1"):
        ports.claim("192.0.2.1", {"grpc": 0})


def test_names_become_addresses():
    assert ports.resolve_host("localhost") == "127.0.0.1"
    assert ports.resolve_host("0.0.0.0") == "0.0.0.0"
    with pytest.raises(UsageError, match="::1"):
        ports.resolve_host("::1")
    assert ports.resolve_host("::1", ipv6=True) == "::1"
    assert ports.resolve_host("[::]", ipv6=True) == "::"
    with pytest.raises(UsageError, match=r"no\.such"):
        ports.resolve_host("no.such.host.invalid", ipv6=True)


def test_reachable_addresses():
    assert [ports.is_loopback(one) for one in ("127.0.0.1", "::1", "127.1.2.3")] == [True] * 3
    assert [ports.is_loopback(one) for one in ("0.0.0.0", "::", "10.0.0.7")] == [False] * 3
    assert ports.reachable("0.0.0.0") == ports.reachable("::") == "127.0.0.1"
    assert ports.reachable("10.0.0.7") == "10.0.0.7"
    assert ports.join("10.0.0.7", 8001) == "10.0.0.7:8001"
    assert ports.join("::1", 8001) == "[::1]:8001"


def test_addresses_for_other_machines():
    pytest.importorskip("psutil", reason="needs delugeserve[server]")
    assert ports.machine_addresses("10.0.0.7") == ("10.0.0.7",)
    every = ports.machine_addresses("0.0.0.0")
    assert not {"0.0.0.0", "127.0.0.1"} & set(every)
    for address in every:
        ports.claim(address, {"grpc": 0})
    assert set(every) <= set(ports.machine_addresses("::"))


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_a_port_of_ipv6():
    try:
        chosen = ports.claim("::1", {"grpc": 0})["grpc"]
    except UsageError:
        pytest.skip("needs the address ::1")
    taken = socket.create_server(("::1", chosen), family=socket.AF_INET6)
    with taken, pytest.raises(PortError):
        ports.claim("::1", {"grpc": chosen})


def test_endpoints_on_another_address_share_no_port():
    # 127.0.0.2 is this machine too, so the same port would be free there.
    for _ in range(20):
        chosen = ports.claim(ports.LOOPBACK, {"grpc": 0, "gateway": 0}, {"gateway": "127.0.0.2"})
        assert chosen["grpc"] != chosen["gateway"]
    with pytest.raises(PortError):
        ports.claim(ports.LOOPBACK, {"grpc": 9, "gateway": 9}, {"gateway": "127.0.0.2"})


def test_a_chosen_port_is_none_of_outgoing_connections():
    """The kernel gives those any port of its range, also one that a server is about to use."""
    chosen = [ports.claim(ports.LOOPBACK, {"grpc": 0})["grpc"] for _ in range(50)]
    assert len(set(chosen)) > 40
    assert all(20_000 <= port < 32_768 for port in chosen)


def test_a_port_is_found_where_the_choice_is_taken(monkeypatch):
    taken = ports.claim(ports.LOOPBACK, {"grpc": 0})["grpc"]
    with socket.create_server((ports.LOOPBACK, taken)):
        monkeypatch.setattr(ports, "_CHOICE", range(taken, taken + 1))
        monkeypatch.setattr(ports, "_ATTEMPTS", 1)
        assert ports.claim(ports.LOOPBACK, {"grpc": 0})["grpc"] != taken
