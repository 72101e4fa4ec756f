import datetime
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
        sender._socket.shutdown(2)
        time.sleep(0.05)
        answers = ask(sender, [1])
        sender.close()
    assert answers == [(ANSWER.tobytes(), None)]


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
