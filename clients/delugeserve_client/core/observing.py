"""What happens to requests, for logs, metrics and traces."""

from __future__ import annotations

import logging
from collections.abc import Sequence
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


def tell(observers: Sequence[Observer], event: str, *facts: Any) -> None:
    """Call a method of all observers, and log what they raise.

    Args:
        observers: the observers.
        event: name of the method.
        facts: its arguments.
    """
    for one in observers:
        try:
            getattr(one, event)(*facts)
        except Exception:
            _log.exception("the observer %r failed at '%s'", one, event)
