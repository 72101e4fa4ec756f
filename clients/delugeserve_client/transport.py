"""Connections to a Triton Inference Server over gRPC and HTTP, behind one interface."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from delugeserve_client.address import Address
from delugeserve_client.credentials import NO_CREDENTIALS, Credentials
from delugeserve_client.diagnosis import choose_model, diagnose, not_served, not_triton
from delugeserve_client.errors import ClientError, ModelUnavailable, ServerUnavailable
from delugeserve_client.explaining import explain
from delugeserve_client.preprocessing import Pixels
from delugeserve_client.served import ServedModel, read_model
from delugeserve_client.triton import (
    Outputs,
    Reply,
    build_request,
    failures,
    import_triton,
    open_client,
    read_reply,
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

    def submit(self, model: ServedModel, batch: Pixels, outputs: Outputs) -> Callable[[], Reply]:
        """Send a batch. Over HTTP it is sent when the reply is waited for.

        Args:
            model: the model to ask.
            batch: uint8 ``[N, H, W, 3]``, N at most the model's ``max_batch_size``.
            outputs: the outputs wanted. A number above 0 asks for that many classes as strings
                (Triton's classification extension), 0 for the values.

        Returns:
            A function that waits for the reply and returns its arrays by output name. It raises
            ServerUnavailable, ModelUnavailable or InferenceFailed.
        """
        raise NotImplementedError

    def explain(self, error: BaseException) -> ClientError:
        """Translate an error of tritonclient or of the network."""
        return explain(error, self.address, self.timeout)

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def _options(self) -> dict[str, Any]:
        raise NotImplementedError


class GrpcTransport(Transport):
    """gRPC: several requests in flight on one connection, from any thread."""

    def __init__(
        self, address: Address, timeout: float, credentials: Credentials = NO_CREDENTIALS
    ) -> None:
        super().__init__(address, timeout, credentials)
        self.module = import_triton("grpc")
        self.client = open_client("grpc", address, credentials)

    def submit(self, model: ServedModel, batch: Pixels, outputs: Outputs) -> Callable[[], Reply]:  # noqa: D102
        answered: Future[Any] = Future()

        def callback(result: Any, error: Exception | None) -> None:
            if error is None:
                answered.set_result(result)
            else:
                answered.set_exception(error)

        self.client.async_infer(
            callback=callback,
            client_timeout=self.timeout,
            **build_request(self.module, model, batch, outputs, self.timeout),
        )

        def wait() -> Reply:
            try:
                return read_reply(answered.result(), outputs)
            except failures() as error:
                raise self.explain(error) from error

        return wait

    def _options(self) -> dict[str, Any]:
        return {"as_json": True, "client_timeout": self.timeout}


class HttpTransport(Transport):
    """HTTP: one request at a time, in one thread, as tritonclient's HTTP client requires."""

    def __init__(
        self, address: Address, timeout: float, credentials: Credentials = NO_CREDENTIALS
    ) -> None:
        super().__init__(address, timeout, credentials)
        self.module = import_triton("http")
        self.client = open_client(
            "http", address, credentials, connection_timeout=timeout, network_timeout=timeout
        )

    def submit(self, model: ServedModel, batch: Pixels, outputs: Outputs) -> Callable[[], Reply]:  # noqa: D102
        def infer() -> Reply:
            try:
                request = build_request(self.module, model, batch, outputs, self.timeout)
                result = self.client.infer(**request)
                return read_reply(result, outputs)
            except failures() as error:
                raise self.explain(error) from error

        return infer

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
