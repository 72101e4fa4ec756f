import http.server
import json
import socket
import threading

import pytest
from tritonclient.utils import InferenceServerException

from delugeserve_client import (
    Classifier,
    ClientError,
    InferenceFailed,
    ModelUnavailable,
    ServerUnavailable,
)
from delugeserve_client.transport import (
    CHANNEL_ARGUMENTS,
    Address,
    diagnose,
    explain,
    not_served,
    parse_address,
)

HERE = Address("localhost:8001", "grpc")


@pytest.mark.parametrize(
    ("url", "protocol", "expected"),
    [
        ("localhost:8001", None, Address("localhost:8001", "grpc")),
        ("localhost", None, Address("localhost:8001", "grpc")),
        ("localhost", "http", Address("localhost:8000", "http")),
        ("localhost:9", "http", Address("localhost:9", "http")),
        ("http://host.example/", None, Address("host.example:8000", "http")),
        ("http://host.example:80", "http", Address("host.example:80", "http")),
        ("grpc://10.0.0.1:1", None, Address("10.0.0.1:1", "grpc")),
        ("[::1]:8001", None, Address("[::1]:8001", "grpc")),
        ("[::1]", None, Address("[::1]:8001", "grpc")),
    ],
)
def test_addresses(url, protocol, expected):
    assert parse_address(url, protocol) == expected


@pytest.mark.parametrize(
    ("url", "protocol"),
    [
        ("", None),
        ("ftp://x", None),
        ("https://x", None),
        ("http://x", "grpc"),
        ("x", "tcp"),
        ("x:", None),
        ("x:port", None),
        ("x:0", None),
        ("x:65536", None),
        (":8001", None),
    ],
)
def test_addresses_that_are_none(url, protocol):
    with pytest.raises(ClientError):
        parse_address(url, protocol)


def grpc_error(status, message):
    return InferenceServerException(msg=message, status=f"StatusCode.{status}")


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (
            grpc_error("UNAVAILABLE", "failed to connect to all addresses; last error: ..."),
            ServerUnavailable,
            "No server answers at localhost:8001. Start one with: delugeserve serve",
        ),
        (grpc_error("UNAVAILABLE", "Socket closed"), ServerUnavailable, "No server answers"),
        (ConnectionRefusedError(111, "refused"), ServerUnavailable, "No server answers"),
        (ConnectionResetError(104, "reset"), ServerUnavailable, "No server answers"),
        (grpc_error("DEADLINE_EXCEEDED", "Deadline Exceeded"), ServerUnavailable, "within 30 s"),
        (TimeoutError("timed out"), ServerUnavailable, "within 30 s"),
        (
            grpc_error("UNAVAILABLE", "Exceeds maximum queue size"),
            InferenceFailed,
            "Exceeds maximum queue size.",
        ),
        (
            grpc_error("NOT_FOUND", "Request for unknown model: 'x' is not found"),
            ModelUnavailable,
            "unknown model: 'x'",
        ),
        (
            InferenceServerException("Request for unknown model: 'x' is not found", "404"),
            ModelUnavailable,
            "unknown model: 'x'",
        ),
        (grpc_error("INTERNAL", "it broke"), InferenceFailed, "refused: it broke."),
        (InferenceServerException("it broke", "500"), InferenceFailed, "refused: it broke."),
    ],
)
def test_errors_in_the_clients_terms(error, kind, says):
    explained = explain(error, HERE, 30.0)
    assert type(explained) is kind
    assert says in str(explained)


def test_a_telling_host_name_is_not_what_the_server_says():
    text = "DNS resolution failed for model-queue.example:8001: Domain name not found"
    error = InferenceServerException(text, status="StatusCode.UNAVAILABLE")
    address = Address("model-queue.example:8001", "grpc")
    assert type(explain(error, address, 30.0)) is ServerUnavailable


INDEX = [
    {"name": "delugenet38", "version": "1", "state": "READY"},
    {"name": "delugenet92", "version": "1", "state": "READY"},
    {"name": "delugenet92", "version": "3", "state": "READY"},
    {"name": "broken", "version": "1", "state": "UNAVAILABLE", "reason": "no such file"},
]


@pytest.mark.parametrize(
    ("name", "version", "says"),
    [
        ("delugenet83", "", "Did you mean 'delugenet38'? It serves: delugenet38, delugenet92."),
        ("zzz", "", "serves no model 'zzz'. It serves: delugenet38, delugenet92."),
        ("broken", "", "could not load 'broken': no such file."),
        ("delugenet92", "2", "no version 2 of 'delugenet92'. It serves version 1, 3."),
    ],
)
def test_names_what_the_server_does_serve(name, version, says):
    assert says in str(not_served(HERE, name, version, INDEX))


def test_an_empty_server():
    assert "It serves no model at all." in str(not_served(HERE, "x", "", []))


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, *arguments):
        pass


def test_a_web_server_that_is_no_triton():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ServerUnavailable, match="is no Triton Inference Server"):
            Classifier(f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()


def test_nobody_listens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        for protocol in ("grpc", "http"):
            error = ServerUnavailable("It is silent.", "Wake it.")
            assert diagnose(Address(host, protocol), error) is error


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_server_that_hangs(scheme):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # connections succeed, and nothing ever answers
        with pytest.raises(ServerUnavailable, match=r"did not answer within 0\.3 s"):
            Classifier(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}", timeout=0.3)


def test_channel_arguments_restate_the_message_sizes():
    arguments = dict(CHANNEL_ARGUMENTS)
    assert arguments["grpc.max_send_message_length"] == 2**31 - 1
    assert arguments["grpc.max_receive_message_length"] == 2**31 - 1
    policy = json.loads(arguments["grpc.service_config"])["methodConfig"][0]["retryPolicy"]
    assert policy["retryableStatusCodes"] == ["UNAVAILABLE"]
