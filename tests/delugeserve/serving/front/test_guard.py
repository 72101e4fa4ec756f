"""Requests that would crash, stall or change a server are refused; the others pass unchanged."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import threading
import time
from pathlib import Path

import grpc
import pytest
from fake_replica import wait_until

from delugeserve.serving import procfs
from delugeserve.serving.front.settings import Limits

LIMITS = Limits(
    request_bytes=300_000, json_bytes=20_000, header_seconds=0.7, receive_seconds=0.7, try_seconds=1
)
INFER = "/v2/models/tiny/infer"
SERVICE = "/inference.GRPCInferenceService/"


@pytest.fixture(scope="module")
def setup(start):
    return start(limits=LIMITS)


@pytest.fixture
def untouched(setup):
    """The front; the replica must get no inference, and must answer one afterwards."""
    before = setup.active.inferences()
    yield setup
    assert setup.active.inferences() == before
    assert setup.http("POST", INFER, b'{"inputs":[]}')[0] == 200
    assert setup.infer() == b"a"


def error(answer):
    status, headers, body = answer
    assert headers["content-type"] == "application/json"
    (message,) = json.loads(body).values()
    assert message.endswith(".")
    assert not {"/", "{", "envoy", "upstream"} & {*message, *message.lower().split()}
    return status


def grpc_error(setup, *arguments, **options):
    with pytest.raises(grpc.RpcError) as caught:
        setup.infer(*arguments, **options)
    assert "upstream" not in caught.value.details()
    return caught.value.code()


def test_a_request_arrives_unchanged(setup):
    body = b'{"inputs":[{"name":"image","data":[[1,2]]}]}'
    assert setup.http("POST", INFER, body)[0] == 200
    assert setup.active.seen[-1][2] == body
    header = b'{"inputs":[]}'
    binary = header + b"[" * 1000
    answer = setup.http("POST", INFER, binary, inference_header_content_length=str(len(header)))
    assert answer[0] == 200
    assert setup.active.seen[-1][2] == binary
    message = b"\x0a\x04tiny" + bytes(range(256))
    assert setup.infer(message) == b"a"
    assert setup.active.seen[-1][2] == message


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/repository/models/tiny/load"),
        ("POST", "/v2/repository/models/tiny/unload"),
        ("POST", "/v2/%72epository/models/tiny/load"),
        ("POST", "/v2/models/tiny/../../repository/models/tiny/load"),
        ("POST", "//v2/repository/models/tiny/load"),
        ("GET", "/v2/logging"),
        ("POST", "/v2/trace/setting"),
        ("POST", "/v2/models/tiny/trace/setting"),
        ("POST", "/v2/systemsharedmemory/region/x/register"),
        ("GET", "/v2/cudasharedmemory/status"),
        ("POST", "/v2/models/tiny/generate"),
        ("DELETE", "/v2/models/tiny"),
        ("POST", "/v2/models/tiny/config"),
    ],
)
def test_closed_paths(untouched, method, path):
    before = len(untouched.active.seen)
    assert error(untouched.http(method, path)) in (403, 404)
    assert len(untouched.active.seen) == before


@pytest.mark.parametrize(
    "method",
    [
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "TraceSetting",
        "LogSettings",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryStatus",
        "CudaSharedMemoryRegister",
        "ModelStreamInfer",
    ],
)
def test_closed_methods(untouched, method):
    code = grpc_error(untouched, b"", SERVICE + method)
    assert code == grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/models/tiny", "/v2/models/tiny/versions/2/config", "/v2/models/tiny/ready"]
)
def test_open_paths(setup, path):
    assert setup.http("GET", path)[0] == 200
    assert setup.active.seen[-1][0] == path


def test_the_list_of_models_is_open(setup):
    assert setup.http("POST", "/v2/repository/index")[0] == 200
    assert setup.infer(method=SERVICE + "RepositoryIndex") == b"a"


def test_nested_json(untouched):
    assert error(untouched.http("POST", INFER, b"[" * 10_000)) == 400
    nested = b'{"inputs":' + b'{"a":[' * 50
    assert error(untouched.http("POST", INFER, nested)) == 400


def test_brackets_in_a_string_are_not_nesting(setup):
    assert setup.http("POST", INFER, b'{"a":"' + b'\\"[' * 500 + b'"}')[0] == 200


def test_large_json(untouched):
    assert error(untouched.http("POST", INFER, b" " * 20_001)) == 413


@pytest.mark.parametrize("length", ["-1", "x", "1000", "5e1"])
def test_a_wrong_length_of_the_json(untouched, length):
    answer = untouched.http("POST", INFER, b"{}", inference_header_content_length=length)
    assert error(answer) == 400


def test_a_large_request(untouched):
    body = bytes(LIMITS.request_bytes + 1)
    assert error(untouched.http("POST", INFER, body, inference_header_content_length="0")) == 413
    assert grpc_error(untouched, body) == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_compressed_requests(untouched):
    assert error(untouched.http("POST", INFER, b"x", content_encoding="gzip")) == 415
    code = grpc_error(untouched, bytes(1000), compression=grpc.Compression.Gzip)
    assert code == grpc.StatusCode.UNIMPLEMENTED


def test_many_small_chunks_reach_the_replica_as_one_body(setup):
    with _connect(setup) as stream:
        stream.sendall(
            f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        stream.sendall(b"1\r\n1\r\n" * 10_000 + b"0\r\n\r\n")
        assert b" 200 " in stream.recv(4096)
    _, headers, body = setup.active.seen[-1]
    assert headers["content-length"] == "10000"
    assert body == b"1" * 10_000


def test_a_client_that_asks_before_it_sends_its_body(setup):
    with _connect(setup) as stream:
        stream.sendall(
            f"POST {INFER} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            "Content-Length: 2\r\n\r\n".encode()
        )
        assert b" 100 " in stream.recv(4096)
        stream.sendall(b"{}")
        assert b" 200 " in stream.recv(4096)


@pytest.mark.parametrize(
    "sent",
    [
        b"POST " + INFER.encode(),
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1",
    ],
    ids=["headers", "body"],
)
def test_slow_clients(untouched, sent):
    began = time.monotonic()
    with _connect(untouched) as stream:
        stream.sendall(sent)
        answer = stream.recv(4096)
    assert answer == b"" or b" 408 " in answer
    assert 0.5 < time.monotonic() - began < 30


def test_many_headers(untouched):
    many = {f"h{number}": "x" for number in range(100)}
    assert untouched.http("POST", INFER, **many)[0] == 431
    assert untouched.http("POST", INFER, long="x" * 40_000)[0] == 431


def test_request_smuggling(untouched):
    with _connect(untouched) as stream:
        stream.sendall(
            f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
            "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v2/logging HTTP/1.1\r\n\r\n".encode()
        )
        assert b" 400 " in stream.recv(4096)


def test_garbage_instead_of_http2(untouched):
    with contextlib.closing(
        socket.create_connection(("127.0.0.1", untouched.front.settings.grpc_port))
    ) as stream:
        stream.sendall(b"GET / HTTP/1.1\r\n\r\n" + struct.pack("<100I", *range(100)))
        stream.settimeout(30)
        with contextlib.suppress(ConnectionResetError):
            while stream.recv(4096):
                pass


def test_a_client_cannot_say_who_it_is_or_how_it_is_retried(setup):
    headers = {"x_client_id": "root", "x_envoy_max_retries": "100", "x_envoy_retry_on": "5xx"}
    setup.http("POST", INFER, b"{}", **headers)
    seen = setup.active.seen[-1][1]
    assert "x-client-id" not in seen
    assert not [name for name in seen if name.startswith("x-envoy-") and "retr" in name]


def test_a_request_id_is_kept_or_made(setup):
    _, headers, _ = setup.http("POST", INFER, b"{}", x_request_id="mine")
    assert headers["x-request-id"] == "mine"
    assert setup.active.seen[-1][1]["x-request-id"] == "mine"
    _, headers, _ = setup.http("POST", INFER, b"{}")
    assert len(headers["x-request-id"]) == 36


def test_paths_and_tracebacks_of_a_server_are_hidden(setup):
    setup.active.http_answer = lambda: (
        400,
        b'{"error":"cannot read /tmp/delugeserve-x/tiny/1/a.onnx: gone\\n At: /tmp/m.py(3)"}',
    )
    try:
        status, _, body = setup.http("POST", INFER, b"{}")
    finally:
        setup.active.http_answer = lambda: (200, b"a")
    assert status == 400
    assert b"cannot read" in body
    assert b"/tmp" not in body
    assert b"At:" not in body

    def fail(context):
        context.abort(
            grpc.StatusCode.INVALID_ARGUMENT, "no image\n\nAt:\n  /tmp/ds/model.py(3): execute\n"
        )

    setup.active.answer = fail
    try:
        with pytest.raises(grpc.RpcError) as caught:
            setup.infer()
    finally:
        setup.active.answer = lambda context: None
    assert caught.value.details() == "no image"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"failed to parse the request JSON buffer: Invalid value. at 0", 400),
        (b"Unable to parse 'shape': attempt to access JSON non-array as array", 400),
        (b"Stub process 'm' is not healthy.", 500),
    ],
)
def test_json_that_a_server_cannot_read_is_the_clients_error(setup, message, expected):
    setup.active.http_answer = setup.standby.http_answer = lambda: (
        500,
        b'{"error":"' + message + b'"}',
    )
    try:
        status, _, body = setup.http("POST", INFER, b"{}")
    finally:
        for replica in (setup.active, setup.standby):
            replica.http_answer = lambda name=replica.name: (200, name.encode())
    assert (status, message in body) == (expected, True)


def test_no_replica_answers(start):
    setup = start(limits=LIMITS)
    setup.active.stop()
    setup.standby.stop()
    assert error(setup.http("POST", INFER, b"{}")) == 503
    assert grpc_error(setup) == grpc.StatusCode.UNAVAILABLE


def test_a_replica_that_hangs_is_passed_over(setup):
    setup.active.answer = lambda context: time.sleep(3)
    try:
        assert setup.infer() == b"b"
    finally:
        setup.active.answer = lambda context: None


def test_memory_has_a_bound(start):
    """Many clients send large requests and never finish them."""
    setup = start(limits=Limits(request_bytes=20_000_000, memory_bytes=90_000_000))

    def never_ends():
        yield bytes(18_000_000)
        time.sleep(2)

    target = f"127.0.0.1:{setup.front.settings.grpc_port}"
    with contextlib.ExitStack() as stack:
        calls = []
        for _ in range(20):
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
            channel = stack.enter_context(grpc.insecure_channel(target, options=options))
            calls.append(channel.stream_unary(SERVICE + "ModelInfer").future(never_ends()))
        most = 0
        until = time.monotonic() + 2
        while time.monotonic() < until:
            (envoy,) = procfs.session_members(setup.front._process.pid)
            status = Path(f"/proc/{envoy}/status").read_text()
            most = max(most, int(re.search(r"VmRSS:\s+(\d+)", status)[1]))
            time.sleep(0.05)
        assert most < 220_000  # KiB
    wait_until(lambda: setup.http("POST", INFER, b"{}")[0] == 200)


def test_the_rate_of_a_client_is_limited(start):
    setup = start(limits=Limits(requests_per_second=0.1, burst=5))
    statuses = [setup.http("POST", INFER, b"{}")[0] for _ in range(8)]
    assert statuses == [200] * 5 + [429] * 3
    assert error(setup.http("POST", INFER, b"{}")) == 429
    for _ in range(5):  # gRPC counts for itself
        setup.infer()
    assert grpc_error(setup) == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_more_requests_than_the_servers_hold_are_refused_as_overload(start):
    setup = start(limits=Limits(requests=1))
    busy, done = threading.Event(), threading.Event()

    def slow(context):
        busy.set()
        done.wait(30)

    setup.active.answer = slow
    first = threading.Thread(target=setup.infer)
    first.start()
    try:
        assert busy.wait(30)
        with pytest.raises(grpc.RpcError) as caught:
            setup.infer()
    finally:
        done.set()
        first.join()
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "in flight" in caught.value.details()
    assert setup.front.ejected() == frozenset()


@contextlib.contextmanager
def _connect(setup):
    address = ("127.0.0.1", setup.front.settings.http_port)
    with contextlib.closing(socket.create_connection(address, timeout=30)) as stream:
        yield stream
