"""Inputs in shared memory."""

import threading
from types import SimpleNamespace

from delugeserve_client.address import parse_address
from delugeserve_client.transports.shared_memory import Regions


def test_a_server_that_answers_at_once_does_not_block():
    """gRPC calls back in the same thread if the answer is there already."""
    regions = Regions("system", parse_address("127.0.0.1:8001"), lambda region, done: done(True))
    request = SimpleNamespace(nbytes=3, parts=[b"abc"])
    placed = []
    work = threading.Thread(
        target=lambda: placed.extend([regions.place(request), regions.place(request)]), daemon=True
    )
    work.start()
    work.join(5)
    assert not work.is_alive()
    assert placed[0] is None  # the region was not there yet
    assert placed[1] is not None
    regions.give_back(placed[1])
    regions.close()
