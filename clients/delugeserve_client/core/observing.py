"""What happens to requests, for logs, metrics and traces."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from delugeserve_client.core.failures import Failure, Kind

_log = logging.getLogger("delugeserve_client")


class Observer:
    """Base class of observers of requests. Every method does nothing; override those you need.

    The methods are called in any thread, and must return at once. What they raise is logged, and
    changes nothing else. A request has ``form.model`` and ``form.shape``, whose first number is
    that of the images; ``nbytes``; ``headers``, which may be added to before the first attempt;
    and ``notes``, which is the observer's.
    """

    def submitted(self, request: Any) -> None:
        """Handle a request that is handed in, in the thread and context of its caller."""

    def attempt(self, request: Any, endpoint: int, number: int) -> None:
        """Handle a request that is sent, for the ``number``-th time, to a server."""

    def failed(self, request: Any, endpoint: int, failure: Failure) -> None:
        """Handle a failed attempt."""

    def finished(self, request: Any, failure: Failure | None) -> None:
        """Handle a request that was answered, failed or was cancelled. It is called once."""

    def ejected(self, endpoint: int, kind: Kind, seconds: float) -> None:
        """Handle a server that gets no requests for some seconds."""

    def readmitted(self, endpoint: int) -> None:
        """Handle a server that gets requests again."""


_EVENTS = [name for name in vars(Observer) if not name.startswith("_")]


class Audience:
    """Calls the methods that observers override, and logs what they raise.

    Args:
        observers: the observers.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._methods: dict[str, list[Callable[..., None]]] = {
            event: [getattr(one, event) for one in observers if _overrides(one, event)]
            for event in _EVENTS
        }

    def tell(self, event: str, *facts: Any) -> None:
        """Call the methods of an event.

        Args:
            event: their name.
            facts: their arguments.
        """
        for method in self._methods[event]:
            try:
                method(*facts)
            except Exception:
                _log.exception("an observer failed: %r", method)


def _overrides(observer: Observer, event: str) -> bool:
    method = getattr(observer, event)
    return getattr(method, "__func__", None) is not getattr(Observer, event)
