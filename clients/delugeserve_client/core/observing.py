"""What happens to requests, for logs, metrics and traces."""

from __future__ import annotations

from typing import Any, Protocol

from delugeserve_client.core.failures import Failure, Kind


class Observer(Protocol):
    """Is told what happens to requests. It must return at once and raise nothing."""

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
    """Ignores everything."""

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
