"""What happens to requests, for logs, metrics and traces."""

from __future__ import annotations

from typing import Any, Protocol

from delugeserve_client.core.failures import Failure, Kind


class Observer(Protocol):
    """Is told what happens to requests, in any thread.

    It must return at once and raise nothing. A request has ``form.model`` and ``form.shape``, whose
    first number is that of the images; ``nbytes``; ``headers``, which may be added to before the
    first attempt; and ``notes``, which is the observer's.
    """

    def submitted(self, request: Any) -> None:
        """A request is handed in, in the thread and context of its caller."""

    def attempt(self, request: Any, endpoint: int, number: int) -> None:
        """A request is sent, for the ``number``-th time, to a server."""

    def failed(self, request: Any, endpoint: int, failure: Failure) -> None:
        """An attempt failed."""

    def finished(self, request: Any, failure: Failure | None) -> None:
        """A request was answered, or given up."""

    def ejected(self, endpoint: int, kind: Kind, seconds: float) -> None:
        """A server gets no requests for some seconds."""

    def readmitted(self, endpoint: int) -> None:
        """A server gets requests again."""


class Silent:
    """Ignores everything; the base of observers that care for some of it."""

    def submitted(self, request: Any) -> None:
        """Do nothing."""

    def attempt(self, request: Any, endpoint: int, number: int) -> None:
        """Do nothing."""

    def failed(self, request: Any, endpoint: int, failure: Failure) -> None:
        """Do nothing."""

    def finished(self, request: Any, failure: Failure | None) -> None:
        """Do nothing."""

    def ejected(self, endpoint: int, kind: Kind, seconds: float) -> None:
        """Do nothing."""

    def readmitted(self, endpoint: int) -> None:
        """Do nothing."""


SILENT = Silent()


class Several:
    """Tells several observers.

    Args:
        observers: the observers.
    """

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def submitted(self, request: Any) -> None:
        """Tell all."""
        for one in self._observers:
            one.submitted(request)

    def attempt(self, request: Any, endpoint: int, number: int) -> None:
        """Tell all."""
        for one in self._observers:
            one.attempt(request, endpoint, number)

    def failed(self, request: Any, endpoint: int, failure: Failure) -> None:
        """Tell all."""
        for one in self._observers:
            one.failed(request, endpoint, failure)

    def finished(self, request: Any, failure: Failure | None) -> None:
        """Tell all."""
        for one in self._observers:
            one.finished(request, failure)

    def ejected(self, endpoint: int, kind: Kind, seconds: float) -> None:
        """Tell all."""
        for one in self._observers:
            one.ejected(endpoint, kind, seconds)

    def readmitted(self, endpoint: int) -> None:
        """Tell all."""
        for one in self._observers:
            one.readmitted(endpoint)
