"""Several servers are asked at once: for their model, and for the one that takes encoded images."""

import asyncio
import threading
import time

import pytest
from fake_triton import METADATA

from delugeserve_client import connecting
from delugeserve_client.address import parse_address
from delugeserve_client.configuration import configure
from delugeserve_client.connecting import Decoder, connect, connect_async, find_decoder
from delugeserve_client.core.failures import Failure, Kind
from delugeserve_client.core.retry import RetryPolicy
from delugeserve_client.errors import ServerUnavailable
from delugeserve_client.served import read_model
from delugeserve_client.transports.connection import CallFailed

MODEL = read_model(METADATA, {"max_batch_size": 4})
IMAGE_CONFIG = {
    "max_batch_size": 3,
    "parameters": {
        "companion_of": {"string_value": "fake"},
        "preprocessing": {"string_value": MODEL.preprocessing.digest},
    },
}
IMAGE_METADATA = {
    "name": "fake_image",
    "inputs": [{"name": "image", "datatype": "BYTES"}],
    "outputs": [{"name": "probabilities"}, {"name": "error"}],
}


class Server:
    """A connection to a server that answers, hangs or is gone."""

    def __init__(self, state="up", image_model=True):
        self.address = parse_address("127.0.0.1:1")
        self.state, self.image_model, self.asked = state, image_model, 0
        self.released = threading.Event()

    def ask(self, what, *names, timeout):
        self.asked += 1
        if self.state == "hung":
            self.released.wait(60)
        if self.state != "up":
            raise CallFailed(Failure(Kind.GONE, "connection refused"))
        if names and names[0] == "fake_image":
            if not self.image_model:
                raise CallFailed(Failure(Kind.MISSING))
            return IMAGE_METADATA if what == "metadata" else IMAGE_CONFIG
        return METADATA if what == "metadata" else {"max_batch_size": 4}


class AsyncServer(Server):
    async def ask(self, *question, timeout):
        if self.state == "hung":
            await asyncio.sleep(60)
        return super().ask(*question, timeout=timeout)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(connecting, "_GRACE", 0.05)


def configuration(count):
    return configure(
        [f"127.0.0.1:{port + 1}" for port in range(count)],
        protocol=None,
        timeout=30.0,
        credentials=None,
        decode="auto",
        retry=RetryPolicy(attempts=1),
        hedge=None,
        in_flight=None,
        shared_memory="off",
        max_pixels=None,
        headers=None,
        compression=None,
    )


def test_a_server_that_hangs_delays_nothing():
    servers = [Server("hung"), Server("hung"), Server()]
    start = time.monotonic()
    assert connect(servers, configuration(3), "fake", "").name == "fake"
    assert find_decoder(servers, configuration(3), MODEL).name == "fake_image"
    assert time.monotonic() - start < 4  # one that hangs has 5 s
    for server in servers:
        server.released.set()


def test_a_server_that_hangs_delays_nothing_in_asyncio():
    async def use():
        servers = [AsyncServer("hung"), AsyncServer()]
        return await connect_async(servers, configuration(2), "fake", "")

    start = time.monotonic()
    assert asyncio.run(use()).name == "fake"
    assert time.monotonic() - start < 4


def test_the_first_server_need_not_answer():
    found = find_decoder([Server("gone"), Server()], configuration(2), MODEL)
    assert (found.name, found.max_batch_size) == ("fake_image", 3)
    with pytest.raises(ServerUnavailable):
        find_decoder([Server("gone")] * 2, configuration(2), MODEL)


def test_all_servers_must_take_encoded_images():
    servers = [Server(), Server(image_model=False)]
    assert find_decoder(servers, configuration(2), MODEL) is None


def test_a_failure_is_remembered_for_a_while(monkeypatch):
    now = 100.0
    monkeypatch.setattr(connecting.time, "monotonic", lambda: now)
    decoder = Decoder()
    assert decoder.is_unknown
    decoder.failed()
    assert not decoder.is_unknown
    now = 110.0
    assert decoder.is_unknown
    decoder.found(None)
    assert not decoder.is_unknown
