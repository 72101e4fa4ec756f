"""Label with a running server, through the client."""

from __future__ import annotations

import dataclasses
import functools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from delugeserve.bulk.choices import Decode
from delugeserve.bulk.items import Item
from delugeserve.bulk.labelling import ModelIdentity, begins_block
from delugeserve.bulk.sources.ahead import load_ahead
from delugeserve_client import Classification, Classifier, ServedModel
from delugeserve_client.preprocessing import read_file


@dataclass(frozen=True)
class Endpoint:
    """How to reach a model; it can be sent to another process.

    Attributes:
        urls: addresses of the servers.
        model: the model's name; None for the server's only model.
        version: the version to ask; empty for the newest.
        timeout: seconds for each request.
        decode: who decodes images: ``client``, ``server``, or ``auto`` for the faster one.
        max_pixels: the most pixels of an image; None for the client's limit.
        full_requests: put the same images into one request each time, however slowly they come.
    """

    urls: tuple[str, ...]
    model: str | None = None
    version: str = ""
    timeout: float = 30.0
    decode: Decode = "auto"
    max_pixels: int | None = None
    full_requests: bool = False

    def open(self) -> Classifier:
        """Connect to the servers.

        Raises:
            ClientError: see :class:`~delugeserve_client.Classifier`.
        """
        return Classifier(
            self.urls,
            self.model,
            model_version=self.version,
            timeout=self.timeout,
            decode=self.decode,
            max_pixels=self.max_pixels,
        )

    def absolute(self) -> Endpoint:
        """Return it for a process in another folder."""
        return self

    def pin(self, version: str | None = None) -> Endpoint:
        """Return the endpoint with what may change between two runs fixed.

        That is the name and the version that it now stands for, and who decodes: ``auto`` becomes
        ``client``, since a server may have another release of the decoders.

        Args:
            version: the version to take if it is still served; None for the newest.

        Raises:
            ClientError: the server does not answer, or does not serve the model.
        """
        with self.open() as classifier:
            served = classifier.model
        chosen = self.version or (version if version in served.versions else _newest(served))
        decode: Decode = "client" if self.decode == "auto" else self.decode
        return dataclasses.replace(self, model=served.name, version=chosen, decode=decode)


class ClientLabeller:
    """Labels with a running server.

    Args:
        endpoint: how to reach the model.

    Raises:
        ClientError: the server does not answer, or does not serve the model.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._classifier = endpoint.open()
        self._full_requests = endpoint.full_requests

    @property
    def model(self) -> ModelIdentity:
        """The model, as the server describes it."""
        served = self._classifier.model
        digest: str | None = getattr(served, "digest", None)
        return ModelIdentity(served.name, served.version or _newest(served), digest)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self._classifier.model.num_classes

    def label(self, items: Iterable[Item], top_k: int) -> Iterator[Classification]:
        """Yield one result for each item, in order; see :class:`.Labeller`."""
        blocks = _Blocks(load_ahead(items))
        ask = functools.partial(
            self._classifier.stream,
            top_k=top_k,
            on_error="return",
            full_requests=self._full_requests,
        )
        # Two at once: while the last requests of one are answered, the next one is begun.
        running = deque(_Block(blocks, ask) for _ in range(2))
        try:
            while True:
                block = running.popleft()
                yield from block.results()
                if block.empty:
                    return
                running.append(_Block(blocks, ask))
        finally:
            blocks.stopped = True

    def close(self) -> None:
        """Close the connection."""
        self._classifier.close()


_Ask: TypeAlias = "Callable[[Iterator[str | _File]], Iterator[Classification]]"


class _Blocks:
    """Items, taken block by block, each block by a thread of its own.

    Attributes:
        stopped: no more items are wanted.
        turn: set when the next block may be taken.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)
        self._next: Item | None = None
        self.stopped = False
        self.turn = threading.Event()
        self.turn.set()

    def take(self) -> Iterator[Item]:
        """Yield the items of the next block."""
        last, size = None, 0
        while not self.stopped:
            item = self._next or next(self._items, None)
            self._next = item
            if item is None or (size and begins_block(item, last, size)):
                return
            self._next = None
            last, size = dataclasses.replace(item, content=b"", load=None), size + 1
            yield item


class _Block:
    """One block: a thread sends its items and takes in the results.

    Attributes:
        empty: no items were left; known when the results are.
    """

    def __init__(self, blocks: _Blocks, ask: _Ask) -> None:
        self.empty = True
        self._blocks, self._ask = blocks, ask
        self._results: queue.SimpleQueue[Classification | BaseException | None]
        self._results = queue.SimpleQueue()
        # Blocks are taken in order.
        self._turn, self._following = blocks.turn, threading.Event()
        blocks.turn = self._following
        threading.Thread(target=self._run, daemon=True).start()

    def results(self) -> Iterator[Classification]:
        """Yield the results as they come.

        Raises:
            Exception: what ended the block early, after the results before it.
        """
        while (result := self._results.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result

    def _run(self) -> None:
        self._turn.wait()
        try:
            for result in self._label():
                self._results.put(result)
            self._results.put(None)
        except BaseException as error:
            self._results.put(error)
        finally:
            self._following.set()

    def _label(self) -> Iterator[Classification]:
        def images() -> Iterator[str | _File]:
            for item in self._blocks.take():
                self.empty = False
                path = item.content if item.error is None else b""
                yield path if path == item.source else _File(item)
            self._following.set()

        return self._ask(images())


class _File:
    """An item as a file object, whose name the client uses in results and errors."""

    def __init__(self, item: Item) -> None:
        self.name, self._item = item.source, item

    def read(self) -> bytes:
        """Return the content.

        Raises:
            ImageError: it cannot be read.
        """
        if self._item.error is not None:
            raise self._item.error
        content = self._item.content
        return content if isinstance(content, bytes) else read_file(content, self.name)


def _newest(served: ServedModel) -> str:
    return max(
        served.versions, key=lambda version: int(version) if version.isdecimal() else -1, default=""
    )
