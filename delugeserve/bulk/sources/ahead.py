"""Read remote images ahead, several at once, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from delugeserve.bulk.items import Item

AT_ONCE = 32
"""Images that are read at once. An object store answers each after tens of milliseconds."""


def load_ahead(items: Iterable[Item], at_once: int = AT_ONCE) -> Iterator[Item]:
    """Yield items with their content, in order, and read the next ones meanwhile.

    Items that are not loaded cost nothing, and no thread is started for them.

    Args:
        items: what to load.
        at_once: the most items that are read before they are taken.
    """
    pool: ThreadPoolExecutor | None = None
    waiting: deque[Item | Future[Item]] = deque()
    try:
        for item in items:
            if item.load is None and not waiting:
                yield item
                continue
            if pool is None:
                pool = ThreadPoolExecutor(at_once, "load")
            waiting.append(item if item.load is None else pool.submit(item.loaded))
            if len(waiting) >= at_once:
                yield _loaded(waiting.popleft())
        while waiting:
            yield _loaded(waiting.popleft())
    finally:
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


def _loaded(item: Item | Future[Item]) -> Item:
    return item if isinstance(item, Item) else item.result()
