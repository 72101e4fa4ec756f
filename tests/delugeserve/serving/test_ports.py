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


def test_a_taken_port_is_named_with_the_option_that_changes_it(taken):
    with pytest.raises(PortError) as caught:
        ports.claim(ports.LOOPBACK, {"grpc": 0, "http": taken})
    assert str(taken) in caught.value.problem
    assert "--http-port" in caught.value.remedy
    assert caught.value.exit_code == 2


def test_a_port_asked_for_twice():
    with pytest.raises(PortError, match="twice, for http and for metrics"):
        ports.claim(ports.LOOPBACK, {"grpc": 0, "http": 5999, "metrics": 5999})


def test_a_number_that_is_no_port():
    with pytest.raises(PortError, match="70000 is not a port"):
        ports.claim(ports.LOOPBACK, {"grpc": 70000})


def test_an_address_of_another_machine():
    with pytest.raises(UsageError, match=r"'192\.0\.2\.1' is not an address of this machine"):
        ports.claim("192.0.2.1", {"grpc": 0})


def test_names_become_addresses():
    assert ports.resolve_host("localhost") == "127.0.0.1"
    assert ports.resolve_host("0.0.0.0") == "0.0.0.0"
    with pytest.raises(UsageError, match="has no IPv4 address"):
        ports.resolve_host("::1")


def test_who_can_reach_an_address():
    assert ports.is_loopback("127.0.0.1")
    assert not ports.is_loopback("0.0.0.0")
    assert ports.reachable("0.0.0.0") == "127.0.0.1"
    assert ports.reachable("10.0.0.7") == "10.0.0.7"
