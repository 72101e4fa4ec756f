import pytest

from delugeserve_client.address import Address, parse_address
from delugeserve_client.errors import AddressError


@pytest.mark.parametrize(
    ("url", "protocol", "expected"),
    [
        ("localhost:8001", None, Address("localhost:8001", "grpc")),
        ("localhost", None, Address("localhost:8001", "grpc")),
        ("localhost", "http", Address("localhost:8000", "http")),
        ("localhost:9", "http", Address("localhost:9", "http")),
        ("http://host.example/", None, Address("host.example:8000", "http")),
        ("HTTP://host.example:80", "http", Address("host.example:80", "http")),
        ("http://host.example:80", "http", Address("host.example:80", "http")),
        ("grpc://10.0.0.1:1", None, Address("10.0.0.1:1", "grpc")),
        ("[::1]:8001", None, Address("[::1]:8001", "grpc")),
        ("[::1]", None, Address("[::1]:8001", "grpc")),
        ("bücher.example:1", None, Address("bücher.example:1", "grpc")),
        ("under_score.:1", None, Address("under_score.:1", "grpc")),
        ("grpcs://host.example", None, Address("host.example:8001", "grpc", secure=True)),
        ("https://host.example:443", "http", Address("host.example:443", "http", secure=True)),
    ],
)
def test_addresses(url, protocol, expected):
    assert parse_address(url, protocol) == expected


@pytest.mark.parametrize(
    ("url", "protocol"),
    [
        ("", None),
        ("ftp://x", None),
        ("https://x", "grpc"),
        ("tls://x", None),
        ("localhost:8001/v2", None),
        ("my host:8001", None),
        ("http://x", "grpc"),
        ("x", "tcp"),
        ("x:", None),
        ("x:port", None),
        ("x:0", None),
        ("x:65536", None),
        (":8001", None),
        ("a..b:8001", None),
        (f"{'x' * 64}:8001", None),
        ("a\0b:8001", None),
        ("user@x:8001", None),
        ("x?y:8001", None),
        ("::1", None),
        ("[::1:8001", None),
        ("[zz]:8001", None),
        ("x:٣", None),
    ],
)
def test_malformed_addresses(url, protocol):
    with pytest.raises(AddressError) as caught:
        parse_address(url, protocol)
    assert caught.value.url == url


@pytest.mark.parametrize("url", ["x:8001", "grpcs://x:8001", "http://x:8000", "https://x:8000"])
def test_an_address_is_shown_as_it_is_parsed(url):
    assert str(parse_address(url)) == url
