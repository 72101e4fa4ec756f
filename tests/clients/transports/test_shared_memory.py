import gc
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from delugeserve_client.address import parse_address
from delugeserve_client.transports.messages import Form, Request
from delugeserve_client.transports.shared_memory import SMALLEST, Regions

HERE = parse_address("localhost:8001")


def request(size):
    return Request(
        Form("m", "", "image", "UINT8", (size,), ()), (b"ab", memoryview(b"c" * (size - 2)))
    )


def files():
    return list(Path("/dev/shm").glob(f"delugeserve-{os.getpid()}-*"))


@pytest.fixture
def regions():
    """Regions whose server accepts when told, and what was asked of it."""
    asked = []
    made = Regions("auto", HERE, lambda region, done: asked.append((region, done)))
    yield made, asked
    made.close()
    assert files() == []


def test_a_region_is_used_once_the_server_has_it(regions):
    made, asked = regions
    assert made.place(request(SMALLEST - 1)) is None
    assert asked == []
    assert made.place(request(SMALLEST)) is None
    assert made.place(request(SMALLEST)) is None  # one at a time
    ((region, done),) = asked
    assert len(files()) == 1
    done(True)
    assert files() == []  # whoever kills this process leaves nothing behind
    assert made.place(request(SMALLEST)) is region
    assert region._memory[:4] == b"abcc"
    assert made.place(request(SMALLEST)) is None  # it is in use, and a second one is asked for
    made.give_back(region)
    assert made.place(request(SMALLEST)) is region
    assert len(asked) == 2
    asked[1][1](False)


def test_a_server_that_refuses_is_asked_once(regions):
    made, asked = regions
    made.place(request(SMALLEST))
    asked[0][1](False)
    assert made.place(request(SMALLEST)) is None
    assert len(asked) == 1


def test_nothing_is_left_of_a_region_that_nobody_accepted():
    made = Regions("auto", HERE, lambda region, done: None)
    made.place(request(SMALLEST))
    del made
    gc.collect()
    assert files() == []


def test_a_refusal_may_come_at_once():
    made = Regions("auto", HERE, lambda region, done: done(False))
    assert made.place(request(SMALLEST)) is None
    assert made.close() == []


def test_a_server_that_does_not_answer_is_asked_again(regions):
    made, asked = regions
    for _ in range(5):
        made.place(request(SMALLEST))
        asked[-1][1](None)
    assert len(asked) == 3


def test_new_regions_after_a_restart(regions):
    made, asked = regions
    made.place(request(SMALLEST))
    asked[0][1](True)
    made.lost(made.place(request(SMALLEST)), "Unable to find shared memory region")
    assert made.place(request(SMALLEST)) is None
    asked[1][1](True)
    assert made.place(request(SMALLEST)) is asked[1][0]


def test_a_larger_region_takes_the_place_of_a_smaller_one(regions):
    made, asked = regions
    while len(asked) < 8:
        if made.place(request(SMALLEST)) is None:
            asked[-1][1](True)
    for region, _ in asked:
        made.give_back(region)
    made.place(request(2 * SMALLEST))
    asked[8][1](True)
    large = made.place(request(2 * SMALLEST))
    assert large is asked[8][0]
    assert len(made.close()) == 9  # the server forgets all


@pytest.mark.parametrize("end", ["close", "error"])
def test_a_registration_under_way_leaves_nothing(end):
    asked = []

    def register(region, done):
        asked.append(region)
        if end == "error":
            raise RuntimeError("no event loop")

    made = Regions("auto", HERE, register)
    made.place(request(SMALLEST))
    assert made.close() == ([] if end == "error" else asked)
    assert files() == []


def test_memory_that_cannot_be_had_is_no_error(monkeypatch):
    class Failing:
        def __init__(self, size):
            raise LookupError("an error of CUDA's own")

    monkeypatch.setattr("delugeserve_client.transports.shared_memory.SystemRegion", Failing)
    made = Regions("auto", HERE, lambda *_: pytest.fail("asked"))
    assert made.place(request(SMALLEST)) is None
    assert made.place(request(SMALLEST)) is None


def test_a_region_that_the_server_may_still_read_is_not_used_again(regions):
    made, asked = regions
    made.place(request(SMALLEST))
    asked[0][1](True)
    region = made.place(request(SMALLEST))
    made.discard(region)
    assert made.place(request(SMALLEST)) is None
    asked[1][1](True)
    assert made.place(request(SMALLEST)) is asked[1][0] is not region
    assert region in made.close()


@pytest.mark.parametrize(("mode", "url"), [("off", "localhost:8001"), ("auto", "example.com:8001")])
def test_other_machines_and_off(mode, url):
    made = Regions(mode, parse_address(url), lambda *_: pytest.fail("asked"))
    assert made.place(request(2 * SMALLEST)) is None


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
