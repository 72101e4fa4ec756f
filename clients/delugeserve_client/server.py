"""What a Triton Inference Server says of itself and its models."""

from __future__ import annotations

from typing import Any

from delugeserve_client.address import parse_address
from delugeserve_client.credentials import Credentials
from delugeserve_client.explaining import to_error
from delugeserve_client.transports.connection import CallFailed, Options
from delugeserve_client.transports.threads import open_connection


class ServerDescription:
    """Reads what a server says of itself and its models.

    Args:
        url: the server's address.
        timeout: seconds that an answer may take.
        credentials: what the client shows to the server; None takes those of the environment.

    Raises:
        AddressError: the URL is not of a known form.
        MissingPackageError: tritonclient or one of its own dependencies is not installed.
        AuthenticationFailed: a file of the credentials cannot be used.
    """

    def __init__(
        self, url: str, timeout: float = 30.0, credentials: Credentials | None = None
    ) -> None:
        shown = Credentials.from_environment() if credentials is None else credentials
        self._connection = open_connection(parse_address(url), Options(shown))
        self._timeout = timeout

    def read(self, what: str, *names: str) -> Any:
        """Return a description as JSON values.

        Args:
            what: ``server``; ``index``, the models; or ``metadata``, ``config`` or ``statistics``
                of a model.
            names: the model's name and, if one is meant, version.

        Raises:
            ClientError: the server does not answer, or refuses.
        """
        try:
            return self._connection.ask(what, *names, timeout=self._timeout)
        except CallFailed as error:
            failure, address = error.failure, self._connection.address
            raise to_error(failure, address, self._timeout, *names[:1]) from None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
