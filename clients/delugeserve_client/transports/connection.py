"""What both protocols offer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from delugeserve_client.address import Address
from delugeserve_client.core.dispatch import Cancel, Done
from delugeserve_client.core.failures import Failure, Kind
from delugeserve_client.credentials import NO_CREDENTIALS, Credentials
from delugeserve_client.transports.messages import Reply, Request

Compression: TypeAlias = Literal["gzip"]
SharedMemory: TypeAlias = Literal["auto", "off", "system", "cuda"]

LONGEST = 10.0**8
"""Seconds; a longer timeout is none. Sockets and gRPC take none that is much longer."""


class CallFailed(Exception):
    """A call failed.

    Attributes:
        failure: why.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def damaged(error: BaseException) -> CallFailed:
    """Return the failure for an answer that cannot be read."""
    return CallFailed(Failure(Kind.BROKEN, f"The answer is damaged ({error}).", cause=error))


def unexpected(error: BaseException) -> Failure:
    """Return the failure for an error of no known kind, so that its request ends."""
    return Failure(Kind.BROKEN, f"{type(error).__name__}: {error}", cause=error)


@dataclass(frozen=True)
class Options:
    """How connections are made.

    Attributes:
        credentials: what the client shows to the server.
        headers: headers of every request.
        compression: how requests are compressed; None leaves them as they are.
        shared_memory: whether large inputs may go through this machine's shared memory.
    """

    credentials: Credentials = NO_CREDENTIALS
    headers: Mapping[str, str] = field(default_factory=dict)
    compression: Compression | None = None
    shared_memory: SharedMemory = "off"

    def all_headers(self) -> dict[str, str]:
        """Return the headers of every request, with that of the API key."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        if self.credentials.api_key is not None:
            headers["authorization"] = f"Bearer {self.credentials.api_key}"
        return headers


class Connection(Protocol):
    """A connection to one server. It may be used from several threads."""

    address: Address

    def infer(self, request: Request, timeout: float) -> Reply:
        """Send a request and wait for the answer.

        Raises:
            CallFailed: there is none.
        """

    def start(self, request: Request, timeout: float, done: Done) -> Cancel:
        """Send a request; ``done`` receives the outcome, in another thread."""

    def probe(self, model: str, version: str, timeout: float, done: Callable[[bool], None]) -> None:
        """Ask whether a model is ready; ``done`` receives the answer, in another thread.

        Args:
            model: its name.
            version: its version; empty for any.
            timeout: seconds that the server has.
            done: receives the answer.
        """

    def ask(self, what: str, *names: str, timeout: float) -> Any:
        """Return one of the server's descriptions as JSON.

        Args:
            what: ``metadata`` or ``config`` of a model, with its name and version, or ``index``.
            names: see ``what``.
            timeout: seconds that the server has.

        Raises:
            CallFailed: there is no answer, or it is not JSON.
        """

    def close(self) -> None:
        """Close the connection."""
