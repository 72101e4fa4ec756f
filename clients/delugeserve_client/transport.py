"""What a Triton Inference Server says of itself and its models, over gRPC and HTTP."""

from __future__ import annotations

import logging
from typing import Any

from delugeserve_client.address import Address
from delugeserve_client.credentials import NO_CREDENTIALS, Credentials
from delugeserve_client.diagnosis import choose_model, diagnose, not_served, not_triton
from delugeserve_client.errors import ClientError, ModelUnavailable, ServerUnavailable
from delugeserve_client.explaining import explain
from delugeserve_client.served import ServedModel, read_model
from delugeserve_client.triton import (
    failures,
    import_triton,
    open_client,
)

_log = logging.getLogger(__name__)


class Transport:
    """A connection to a server.

    Args:
        address: the server's address.
        timeout: seconds that any call may take.
        credentials: what the client shows to the server.

    Attributes:
        module: ``tritonclient.grpc`` or ``tritonclient.http``.
        client: that module's InferenceServerClient.
    """

    module: Any
    client: Any

    def __init__(
        self, address: Address, timeout: float, credentials: Credentials = NO_CREDENTIALS
    ) -> None:
        self.address = address
        self.timeout = timeout
        self.credentials = credentials

    def connect(self, name: str | None = None, version: str = "") -> ServedModel:
        """Read the description of a model from the server.

        Args:
            name: the model's name; None takes the server's only model.
            version: the version to ask; empty leaves the choice to the server.

        Raises:
            ServerUnavailable: no server answers, or it speaks the other protocol.
            ModelUnavailable: the model is not served or does not classify raw RGB images, or no
                name is given and the server does not serve exactly one model.
        """
        try:
            if name is None:
                name = choose_model(self.address, self.index())
            metadata = self.call("get_model_metadata", name, version)
            config = self.call("get_model_config", name, version)
        except ServerUnavailable as error:
            raise diagnose(self.address, error, self.credentials) from None
        except ModelUnavailable:
            if name is None:
                raise
            raise not_served(self.address, name, version, self.index()) from None
        model = read_model(metadata, config.get("config", config), version)
        _log.debug("%s serves %s", self.address, model)
        return model

    def index(self) -> list[dict[str, Any]]:
        """Return the models in the server's repository: name, version, state, reason."""
        reply = self.call("get_model_repository_index")
        return list(reply.get("models", []) if isinstance(reply, dict) else reply)

    def call(self, method: str, *arguments: str) -> Any:
        """Call one of tritonclient's descriptive methods and return its JSON.

        Raises:
            ClientError: the call failed; see :func:`delugeserve_client.diagnosis.explain`.
        """
        try:
            return getattr(self.client, method)(*arguments, **self._options())
        except failures() as error:
            raise self.explain(error) from error
        except ValueError as error:  # the answer is not JSON
            raise not_triton(self.address) from error

    def explain(self, error: BaseException) -> ClientError:
        """Translate an error of tritonclient or of the network."""
        return explain(error, self.address, self.timeout)

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def _options(self) -> dict[str, Any]:
        raise NotImplementedError


class GrpcTransport(Transport):
    """Over gRPC."""

    def __init__(
        self, address: Address, timeout: float, credentials: Credentials = NO_CREDENTIALS
    ) -> None:
        super().__init__(address, timeout, credentials)
        self.module = import_triton("grpc")
        self.client = open_client("grpc", address, credentials)

    def _options(self) -> dict[str, Any]:
        return {"as_json": True, "client_timeout": self.timeout}


class HttpTransport(Transport):
    """Over HTTP, in one thread, as tritonclient's HTTP client requires."""

    def __init__(
        self, address: Address, timeout: float, credentials: Credentials = NO_CREDENTIALS
    ) -> None:
        super().__init__(address, timeout, credentials)
        self.module = import_triton("http")
        self.client = open_client(
            "http", address, credentials, connection_timeout=timeout, network_timeout=timeout
        )

    def _options(self) -> dict[str, Any]:
        return {}


def open_transport(
    address: Address, timeout: float, credentials: Credentials | None = None
) -> Transport:
    """Return a connection to an address. Nothing is sent yet.

    Args:
        address: the server's address.
        timeout: seconds that any call may take.
        credentials: what the client shows to the server; None takes those of the environment.

    Raises:
        MissingPackageError: tritonclient or one of its own dependencies is not installed.
        AuthenticationFailed: a file of the credentials cannot be read.
    """
    shown = Credentials.from_environment() if credentials is None else credentials
    kind = GrpcTransport if address.protocol == "grpc" else HttpTransport
    return kind(address, timeout, shown)
