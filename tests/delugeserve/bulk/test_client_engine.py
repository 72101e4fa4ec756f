"""The engine that asks a server: order, blocks, and what happens when it stops."""

import threading
import time
from types import SimpleNamespace

import pytest
from stub_labeller import row_of

from delugeserve.bulk import labelling
from delugeserve.bulk.engines.client import ClientLabeller, _File
from delugeserve.bulk.items import Item, Shard
from delugeserve_client import ImageError, ServerUnavailable


class StubClassifier:
    """Answers in the order of what it is given, and records what came in one stream."""

    def __init__(self, fails_at=None):
        self.model = SimpleNamespace(name="net", version="3", versions=("3",), digest="0" * 16)
        self.streams, self.fails_at, self.full_requests = [], fails_at, set()
        self.lock = threading.Lock()

    def stream(self, images, top_k, *, on_error, full_requests):
        self.full_requests.add(full_requests)
        sent = []
        with self.lock:
            self.streams.append(sent)
        for image in images:
            name = getattr(image, "name", image)
            if name == self.fails_at:
                raise ServerUnavailable("It is gone.", "Start it.", url="here")
            sent.append(name)
            time.sleep(0.0005)
            try:
                image.read() if hasattr(image, "read") else None
            except ImageError as error:
                yield row_of(Item(name, error=error))
            else:
                yield row_of(Item(name), top_k)


@pytest.fixture
def labeller(monkeypatch):
    def make(**options):
        labeller = ClientLabeller.__new__(ClientLabeller)
        labeller._classifier, labeller._full_requests = StubClassifier(**options), True
        return labeller

    monkeypatch.setattr(labelling, "BLOCK", 5)
    return make


def items(count, shard=lambda _: None):
    error = ImageError("It is gone.", "Look.", source="gone")
    for number in range(count):
        bad = {"error": error} if number % 7 == 3 else {"content": f"{number}"}
        yield Item(f"{number}", shard=shard(number), **bad)


def test_results_are_in_order_and_streams_are_blocks(labeller):
    one = labeller()
    found = list(one.label(items(33), 2))
    assert [row.source for row in found] == [str(number) for number in range(33)]
    assert [row.error is not None for row in found] == [n % 7 == 3 for n in range(33)]
    assert one._classifier.full_requests == {True}
    sent = [stream for stream in one._classifier.streams if stream]
    assert sent == [[str(n) for n in range(start, min(start + 5, 33))] for start in range(0, 33, 5)]


def test_blocks_do_not_cross_shards(labeller):
    shards = [Shard(name, "") for name in ("a.tar", "b.tar")]
    one = labeller()
    listed = list(items(17, lambda n: shards[n // 8] if n < 16 else None))
    assert [row.source for row in one.label(listed, 2)] == [str(number) for number in range(17)]
    sent = [stream for stream in one._classifier.streams if stream]
    assert [stream[0] for stream in sent] == ["0", "5", "8", "13", "16"]


def test_an_error_comes_after_the_results_before_it(labeller):
    found = []
    with pytest.raises(ServerUnavailable):
        found.extend(row.source for row in labeller(fails_at="22").label(items(33), 2))
    assert found == [str(number) for number in range(22)]


def test_an_error_of_the_list_is_raised(labeller):
    def broken():
        yield from items(12)
        raise LookupError("the list")

    found = []
    with pytest.raises(LookupError):
        found.extend(row.source for row in labeller().label(broken(), 2))
    assert found[:10] == [str(number) for number in range(10)]


def test_files_are_read_when_the_client_wants_them(tmp_path):
    path = tmp_path / "1.png"
    path.write_bytes(b"one")
    error = ImageError("It is gone.", "Look.", source="gone")
    assert _File(Item("1.png", str(path))).read() == b"one"  # of a worker in another folder
    assert _File(Item("a.tar:1.png", b"two")).read() == b"two"
    for item in (Item("gone", error=error), Item("none.png", str(tmp_path / "none.png"))):
        with pytest.raises(ImageError) as caught:
            _File(item).read()
        assert caught.value.source == item.source
        assert str(tmp_path) not in str(caught.value)


def test_items_are_taken_as_they_are_needed(labeller):
    taken = []

    def listed():
        for item in items(1000):
            taken.append(item)
            yield item

    rows = labeller().label(listed(), 2)
    next(rows)
    time.sleep(0.05)
    assert len(taken) <= 11  # two blocks, and the first item of the third
    rows.close()
    time.sleep(0.05)
    assert len(taken) <= 17
    assert not list(labeller().label([], 2))
