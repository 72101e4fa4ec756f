"""The access log and the traces of a running front."""

from __future__ import annotations

import json

import pytest
from fake_replica import FakeCollector, wait_until

from delugeserve.errors import UsageError
from delugeserve.serving.front.keys import add_key
from delugeserve.serving.front.observing import LOG_FIELDS, collector_address
from delugeserve.serving.front.security import Security


@pytest.fixture
def collector():
    collector = FakeCollector()
    yield collector
    collector.stop()


def test_the_log_and_the_trace_of_a_request(start, tmp_path, collector):
    key = add_key(tmp_path / "keys.txt", "alice")
    path = tmp_path / "access.log"
    setup = start(
        access_log=path,
        security=Security(keys=tmp_path / "keys.txt"),
        tracing=f"http://127.0.0.1:{collector.port}",
    )
    setup.http(
        "POST", "/v2/models/tiny/infer?secret=1", b"{}", x_api_key=key, x_request_id='a"b\\c'
    )
    setup.infer(b"\x0a\x04tiny" + bytes(500), metadata=[("x-api-key", key)])
    setup.http("POST", "/v2/models/tiny/infer", b"{}", x_api_key="wrong")
    lines = []

    def written() -> bool:
        lines[:] = path.read_text().splitlines() if path.exists() else []
        return len(lines) == 3

    wait_until(written)  # Envoy writes once a second
    assert key not in "".join(lines)
    assert "secret" not in "".join(lines)
    by_http, by_grpc, refused = map(json.loads, lines)
    assert all(line.keys() == LOG_FIELDS.keys() for line in (by_http, by_grpc, refused))
    assert (by_http["request_id"], by_http["path"]) == ('a"b\\c', "/v2/models/tiny/infer")
    assert (by_http["status"], by_grpc["grpc_status"], refused["status"]) == (200, 0, 401)
    assert by_http["model"] == by_grpc["model"] == "tiny"
    assert by_http["client"] == by_grpc["client"] == "alice"
    assert refused["client"] is None
    assert by_http["tries"] == 1
    assert by_http["replica"].endswith(str(setup.active.http_port))
    # The replica continues the trace that the log names.
    assert by_http["trace_id"] in setup.active.seen[0][1]["traceparent"]
    wait_until(lambda: bytes.fromhex(by_http["trace_id"]) in b"".join(collector.messages))


def test_addresses_of_collectors():
    assert collector_address("http://localhost") == ("localhost", 4317)
    assert collector_address("http://[::1]:99") == ("::1", 99)
    for wrong in ("localhost:4317", "https://x:4317", "http://x:4318/v1/traces", "http://x:y", ""):
        with pytest.raises(UsageError):
            collector_address(wrong)
