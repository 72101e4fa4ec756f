import socket

import grpc
import pytest
from tritonclient.utils import InferenceServerException

from delugeserve_client.address import Address
from delugeserve_client.core.failures import Kind
from delugeserve_client.credentials import Credentials
from delugeserve_client.diagnosis import choose_model, diagnose, not_served
from delugeserve_client.errors import (
    AuthenticationFailed,
    InferenceFailed,
    ModelUnavailable,
    QueueFull,
    RequestRefused,
    ServerDraining,
    ServerGone,
    ServerOverloaded,
    ServerTimeout,
    ServerUnavailable,
)
from delugeserve_client.explaining import classify_failure, failure_of, to_error

HERE = Address("localhost:8001", "grpc")


def explain(error, address, timeout):
    if isinstance(error, InferenceServerException):  # a server's answer
        status = error.status().rpartition(".")[2]
        failure = classify_failure(status, error.message(), address.host)
    else:
        failure = failure_of(error)
    return to_error(failure, address, timeout)


def grpc_error(status, message):
    return InferenceServerException(msg=message, status=f"StatusCode.{status}")


UNKNOWN = "Request for unknown model: 'x' is not found"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (grpc_error("UNAVAILABLE", "failed to connect to all addresses; ..."), ServerUnavailable),
        (grpc_error("UNAVAILABLE", "Socket closed"), ServerGone),
        (ConnectionRefusedError(111, "refused"), ServerUnavailable),
        (ConnectionResetError(104, "reset"), ServerGone),
        (InferenceServerException("<html>no upstream</html>", "502"), ServerUnavailable),
        (grpc_error("UNAVAILABLE", "No server is ready. Try again."), ServerDraining),
        (
            grpc_error("UNAVAILABLE", "Server is stopping, scheduler has stopped accepting"),
            ServerDraining,
        ),
        (grpc_error("DEADLINE_EXCEEDED", "Deadline Exceeded"), ServerTimeout),
        (TimeoutError("timed out"), ServerTimeout),
        (grpc_error("UNAVAILABLE", "Request timeout expired"), ServerTimeout),
        (grpc_error("UNAVAILABLE", "Exceeds maximum queue size"), QueueFull),
        (grpc_error("RESOURCE_EXHAUSTED", "Exceeds maximum queue size"), QueueFull),
        (grpc_error("RESOURCE_EXHAUSTED", "Too many requests."), ServerOverloaded),
        (InferenceServerException("Too many requests.", "429"), ServerOverloaded),
        (grpc_error("RESOURCE_EXHAUSTED", "message larger than max"), RequestRefused),
        (grpc_error("INVALID_ARGUMENT", "unexpected shape"), RequestRefused),
        (grpc_error("UNAUTHENTICATED", "An API key is required."), AuthenticationFailed),
        (InferenceServerException("An API key is required.", "401"), AuthenticationFailed),
        (grpc_error("NOT_FOUND", UNKNOWN), ModelUnavailable),
        (InferenceServerException(UNKNOWN, "404"), ModelUnavailable),
        (grpc_error("INTERNAL", "it broke"), InferenceFailed),
        (InferenceServerException("it broke", "500"), InferenceFailed),
    ],
)
def test_errors_of_servers_and_the_network(error, kind):
    explained = explain(error, HERE, 30.0)
    assert type(explained) is kind
    assert explained.url == "localhost:8001"
    if issubclass(kind, InferenceFailed):
        assert explained.message == error.message()
        assert error.message().rstrip(".") in explained.problem
        assert ("fewer requests at once" in explained.remedy) == ("queue" in error.message())
    if kind is ServerTimeout:
        assert explained.timeout == 30.0


@pytest.mark.parametrize(
    ("message", "kind", "option"),
    [
        ("Too many requests. Send fewer per second.", ServerOverloaded, "--rate-limit"),
        (
            "The request is larger than 5 bytes, or its JSON than 3: ...",
            RequestRefused,
            "--max-request-mib",
        ),
    ],
)
def test_limits_of_the_front_are_named(message, kind, option):
    error = explain(grpc_error("RESOURCE_EXHAUSTED", message), HERE, 30.0)
    assert type(error) is kind
    assert option in error.remedy


def test_the_log_is_named_only_where_the_cause_is_unknown():
    for status in ("INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"):
        assert "log" not in explain(grpc_error(status, "a cause"), HERE, 30.0).remedy
    assert "log" in explain(grpc_error("INTERNAL", "it broke"), HERE, 30.0).remedy


@pytest.mark.parametrize(
    ("status", "text", "remedy"),
    [
        ("INTERNAL", "CUDA error: out of memory", "smaller batches"),
        ("PERMISSION_DENIED", "RBAC: access denied", "allow it"),
        ("PERMISSION_DENIED", "This API is closed.", "does not offer this"),
        ("UNIMPLEMENTED", "unknown method", "does not offer this"),
        ("INVALID_ARGUMENT", "unexpected shape", "reads its description"),
    ],
)
def test_remedies(status, text, remedy):
    assert remedy in explain(grpc_error(status, text), HERE, 30.0).remedy


def test_a_proxy_that_gives_up_is_not_said_to_have_taken_the_whole_timeout():
    for error in (
        grpc_error("DEADLINE_EXCEEDED", "upstream request timeout"),
        InferenceServerException("stream timeout", "504"),
    ):
        found = explain(error, HERE, 30.0)
        assert type(found) is ServerTimeout
        assert "30 s" not in found.problem
        assert "proxy" in found.remedy


def test_a_batch_for_which_the_server_lacks_shared_memory():
    text = "Failed to increase the shared memory pool size for key 'x' to 1048576 bytes."
    error = explain(grpc_error("INTERNAL", text), HERE, 30.0)
    assert type(error) is InferenceFailed
    assert error.message == text
    assert "key" not in error.problem
    assert "--shm-size" in error.remedy


def test_words_in_the_host_name_do_not_count_as_the_servers():
    text = "DNS resolution failed for model-queue.example:8001: Domain name not found"
    error = InferenceServerException(text, status="StatusCode.UNAVAILABLE")
    address = Address("model-queue.example:8001", "grpc")
    assert type(explain(error, address, 30.0)) is ServerUnavailable


@pytest.mark.parametrize(
    ("metadata", "seconds"),
    [
        ((), 0.0),
        ((("retry-after", "2"),), 2.0),
        ((("retry-after", "2"), ("grpc-retry-pushback-ms", "250")), 0.25),
        ((("grpc-retry-pushback-ms", "-1"),), 0.0),
        ((("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT"),), 0.0),
    ],
)
def test_a_server_may_ask_to_wait_over_grpc(metadata, seconds):
    class Refused(grpc.RpcError):
        def code(self):
            return grpc.StatusCode.RESOURCE_EXHAUSTED

        def details(self):
            return "Too many requests."

        def trailing_metadata(self):
            return metadata

    found = failure_of(Refused())
    assert (found.kind, found.retry_after) == (Kind.OVERLOADED, seconds)


def entry(name, version="1", state="READY", **more):
    return {"name": name, "version": version, "state": state, **more}


BROKEN = entry("broken", state="UNAVAILABLE", reason="no such file")
INDEX = [entry("delugenet38"), entry("delugenet92"), entry("delugenet92", "3"), BROKEN]


@pytest.mark.parametrize(
    ("name", "version", "says"),
    [
        ("delugenet83", "", "Did you mean 'delugenet38'?"),
        ("zzz", "", "It serves: delugenet38, delugenet92."),
        ("broken", "", "no such file."),
        ("delugenet92", "2", "1 or 3"),
    ],
)
def test_names_the_models_that_the_server_serves(name, version, says):
    error = not_served(HERE, name, version, INDEX)
    assert error.served == ("delugenet38", "delugenet92")
    assert error.model == name
    assert error.url == "localhost:8001"
    assert says in str(error)


def test_a_server_without_models():
    error = not_served(HERE, "x", "", [])
    assert (error.model, error.served) == ("x", ())
    assert "delugeserve export" in error.remedy


COMPANIONS = [entry("a_image"), entry("a"), entry("a_decode")]


@pytest.mark.parametrize("index", [[entry("a")], [entry("a"), entry("a", "2"), BROKEN], COMPANIONS])
def test_the_only_model(index):
    assert choose_model(HERE, index) == "a"


@pytest.mark.parametrize(
    ("index", "served", "says"),
    [
        ([entry("b"), entry("a")], ("a", "b"), "a, b"),
        ([BROKEN], (), "could not load 'broken': no such file."),
        ([], (), "does not serve any model"),
    ],
)
def test_several_models_or_none(index, served, says):
    with pytest.raises(ModelUnavailable, match=says) as caught:
        choose_model(HERE, index)
    assert (caught.value.model, caught.value.served) == (None, served)
    assert caught.value.url == "localhost:8001"


def test_nobody_listens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        for protocol in ("grpc", "http"):
            error = ServerUnavailable("No answer.", "Start it.")
            for secure in (False, True):
                address = Address(host, protocol, secure)
                assert diagnose(address, error, Credentials()) is error
