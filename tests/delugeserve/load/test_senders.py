import datetime
import socket
import threading
import time

import grpc
import numpy as np
import pytest
import trustme
from load_stub import ANSWER, StubServer, ask

from delugeserve.load import Target, open_sender, prepare_target
from delugeserve.load.senders import GrpcSender, PlainGrpcSender
from delugeserve_client.credentials import Credentials
from delugeserve_client.errors import AuthenticationFailed, ModelUnavailable


def target(url, size=2, count=4, **more):
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    return Target(url, "stub", images, **{"timeout": 10.0, **more})


@pytest.fixture(params=[PlainGrpcSender, GrpcSender])
def kind(request):
    return request.param


def test_plaintext_takes_the_thin_sender():
    with StubServer() as server:
        sender = open_sender(target(server.url))
        sender.close()
    assert type(sender) is PlainGrpcSender


def test_sends_the_pixels_and_returns_the_probabilities(kind):
    with StubServer() as server:
        wanted = target(server.url)
        sender = kind(wanted)
        ((answer, error),) = ask(sender, [2, 0])
        sender.close()
    assert (error, answer) == (None, ANSWER.tobytes() * 2)
    (request,) = server.requests
    assert request.raw_input_contents[0] == wanted.images[[2, 0]].tobytes()
    assert list(request.inputs[0].shape) == [2, 2, 2, 3]
    assert request.outputs[0].name == "probabilities"
    assert request.parameters["timeout"].int64_param == 10_000_000


def test_many_at_once(kind):
    with StubServer(delay=0.001) as server:
        sender = kind(target(server.url))
        answers = ask(sender, *([i % 4] for i in range(100)))
        sender.close()
    assert answers == [(ANSWER.tobytes(), None)] * 100


def test_every_request_is_different_if_wanted(kind):
    with StubServer() as server:
        sender = kind(target(server.url, unique=True))
        ask(sender, *([0] for _ in range(5)))
        sender.close()
    assert len({request.raw_input_contents[0] for request in server.requests}) == 5


def test_messages_larger_than_a_window_of_http2():
    with StubServer(size=200) as server:  # 120 kB an image
        wanted = target(server.url, size=200)
        sender = PlainGrpcSender(wanted)
        answers = ask(sender, *([0, 1, 2, 3] for _ in range(4)))
        sender.close()
    assert answers == [(ANSWER.tobytes() * 4, None)] * 4
    assert server.requests[-1].raw_input_contents[0] == wanted.images.tobytes()


def test_no_more_at_once_than_the_server_takes():
    with StubServer(delay=0.002, max_streams=2) as server:
        sender = PlainGrpcSender(target(server.url))
        answers = ask(sender, *([0] for _ in range(20)))
        sender.close()
    assert answers == [(ANSWER.tobytes(), None)] * 20


def test_an_error_of_the_server(kind):
    fail = (grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full: 100 % of it")
    with StubServer(fail=fail) as server:
        sender = kind(target(server.url))
        answers = ask(sender, [0], [1])
        sender.close()
    assert answers == [(None, "RESOURCE_EXHAUSTED: queue full: 100 % of it")] * 2


def test_a_deadline_that_passes(kind):
    with StubServer(delay=60) as server:
        sender = kind(target(server.url, timeout=0.2))
        start = time.monotonic()
        ((answer, error),) = ask(sender, [0])
        took = time.monotonic() - start
        sender.close()
    assert answer is None
    assert error.startswith("DEADLINE_EXCEEDED")
    assert took < 30


def test_a_server_that_is_gone_fails_what_is_in_flight_and_what_comes_later():
    with StubServer(delay=60) as server:
        sender = PlainGrpcSender(target(server.url))
        landed, errors = threading.Semaphore(0), []

        def done(_answer, error):
            errors.append(error)
            landed.release()

        sender.send([0], done)
        time.sleep(0.05)
    assert landed.acquire(timeout=10)
    ((answer, error),) = ask(sender, [0])
    sender.close()
    assert answer is None
    assert all(error.startswith(("UNAVAILABLE", "CANCELLED")) for error in [*errors, error])


def test_it_connects_again():
    with StubServer() as server:
        sender = PlainGrpcSender(target(server.url))
        ask(sender, [0])
        sender._current.shut()
        time.sleep(0.05)
        answers = ask(sender, [1])
        sender.close()
    assert answers == [(ANSWER.tobytes(), None)]


class Echo:
    """Messages of a server that is not Triton."""

    def build(self, _):
        return b"message"

    def read(self, reply):
        return reply


@pytest.fixture
def connections():
    """The connections to a server that says what each test wants: a function that accepts one."""
    listener, accepted = socket.create_server(("127.0.0.1", 0)), []

    def accept():
        connection, _ = listener.accept()
        connection.sendall(frame(4, 0, b""))  # SETTINGS
        accepted.append(connection)
        return connection

    accept.url = f"127.0.0.1:{listener.getsockname()[1]}"
    yield accept
    for each in (listener, *accepted):
        each.close()


def frame(kind, stream, payload, flags=0):
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


def read_until(connection, wanted):
    received = b""
    while wanted not in received:
        received += connection.recv(1 << 16)
    return received


def test_a_call_that_a_closing_server_has_not_begun_goes_to_the_next_connection(connections):
    replies = []

    def serve():
        old = connections()
        read_until(old, b"message")
        old.sendall(frame(7, 0, bytes(8)))  # GOAWAY: no stream was begun
        new = connections()
        replies.append(read_until(new, b"message"))
        old.sendall(frame(6, 0, b"12345678"))  # PING
        replies.append(read_until(old, b"12345678"))
        status = b"\0\x0bgrpc-status\x010"
        new.sendall(frame(0, 1, b"\0\0\0\0\x06answer") + frame(1, 1, status, 5))

    server = threading.Thread(target=serve)
    server.start()
    sender = PlainGrpcSender(target(connections.url), Echo())
    answers = ask(sender, [0])
    server.join()
    sender.close()
    assert answers == [(b"answer", None)]
    assert replies[1].endswith(frame(6, 0, b"12345678", 1))


def test_a_server_that_speaks_no_http2(connections):
    def serve():
        connection = connections()
        read_until(connection, b"message")
        connection.sendall(frame(1, 1, b"\xff\xff\xff", 5))

    server = threading.Thread(target=serve)
    server.start()
    sender = PlainGrpcSender(target(connections.url), Echo())
    ((answer, error),) = ask(sender, [0])
    server.join()
    sender.close()
    assert answer is None
    assert error.startswith("UNAVAILABLE")


def test_an_answer_of_another_form(kind):
    with StubServer() as server:
        sender = kind(target(server.url))
        sender._messages.read = lambda reply: reply[:0][0]
        ((answer, error),) = ask(sender, [0])
        sender.close()
    assert answer is None
    assert error.startswith("INTERNAL: IndexError")


def test_a_model_that_is_not_served(kind):
    with StubServer(model="other") as server, pytest.raises(ModelUnavailable) as caught:
        kind(target(server.url))
    assert caught.value.model == "stub"
    assert "other" in caught.value.remedy


def certificate(authority, **validity):
    """A certificate for 127.0.0.1: private key and chain, as gRPC's server takes them."""
    issued = authority.issue_cert("127.0.0.1", **validity)
    chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
    return issued.private_key_pem.bytes(), chain


def test_tls_and_a_key(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    credentials = Credentials(api_key="secret", ca=tmp_path / "ca.pem")
    with StubServer(tls=certificate(authority)) as server:
        sender = open_sender(target(server.url, credentials=credentials))
        answers = ask(sender, [0])
        sender.close()
    assert type(sender) is GrpcSender
    assert answers == [(ANSWER.tobytes(), None)]
    assert server.metadata["authorization"] == "Bearer secret"


def test_a_key_without_tls():
    with StubServer() as server:
        sender = open_sender(target(server.url, credentials=Credentials(api_key="secret")))
        ask(sender, [0])
        sender.close()
    assert type(sender) is PlainGrpcSender
    assert server.metadata["authorization"] == "Bearer secret"


@pytest.mark.parametrize("why", ["expired", "of another authority"])
def test_a_certificate_that_is_not_trusted(tmp_path, why):
    authority, other = trustme.CA(), trustme.CA()
    (authority if why == "expired" else other).cert_pem.write_to_path(tmp_path / "ca.pem")
    past = datetime.datetime(2020, 1, 1)
    validity = {"not_before": past, "not_after": past} if why == "expired" else {}
    with (
        StubServer(tls=certificate(authority, **validity)) as server,
        pytest.raises(AuthenticationFailed) as caught,
    ):
        prepare_target(server.url, credentials=Credentials(ca=tmp_path / "ca.pem"), timeout=5)
    assert ("expired" in caught.value.problem) is (why == "expired")


def test_a_wrong_key():
    fail = (grpc.StatusCode.UNAUTHENTICATED, "no such key")
    with StubServer(fail=fail) as server, pytest.raises(AuthenticationFailed):
        prepare_target(server.url, timeout=5)
