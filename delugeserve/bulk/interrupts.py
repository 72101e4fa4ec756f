"""Ctrl-C and SIGTERM, held back while rows are being written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop.

    Attributes:
        number: the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Held:
    depth = 0
    pending: int | None = None


@contextmanager
def interrupts_raised() -> Iterator[None]:
    """Raise :class:`Interrupted` in the main thread at Ctrl-C and SIGTERM.

    Elsewhere than in the main thread, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        for number in _SIGNALS:
            signal.signal(number, _raise)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _Held.pending = None


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold signals back until the body has ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Held.depth += 1
    try:
        yield
    finally:
        _Held.depth -= 1
        if _Held.pending is not None and not _Held.depth:
            number, _Held.pending = _Held.pending, None
            raise Interrupted(number)


def _raise(number: int, _frame: FrameType | None) -> None:
    if _Held.depth:
        _Held.pending = number
    else:
        raise Interrupted(number)
