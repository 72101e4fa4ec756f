"""The two ways to a Triton server, gRPC and HTTP, behind one small interface.

tritonclient is imported when a connection is made: its HTTP half brings gevent along, which a
gRPC user should not have to load.
"""

from __future__ import annotations

import difflib
import importlib
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from delugeserve_client.errors import (
    ClientError,
    InferenceFailed,
    ModelUnavailable,
    ServerUnavailable,
)
from delugeserve_client.preprocessing import Pixels
from delugeserve_client.served import ServedModel, read_model

Protocol: TypeAlias = Literal["grpc", "http"]
Reply: TypeAlias = dict[str, npt.NDArray[Any]]
Outputs: TypeAlias = Mapping[str, int]

_DEFAULT_PORTS: Mapping[str, int] = {"grpc": 8001, "http": 8000}
_PROBE_SECONDS = 2.0

# Channel arguments replace tritonclient's own, so that the message sizes must be stated again.
# Calls are retried where the server cannot have begun them; gRPC retries only what its buffer
# holds, and the default of 256 KiB is less than two ImageNet images.
_RETRY_POLICY = {
    "methodConfig": [
        {
            "name": [{"service": "inference.GRPCInferenceService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
CHANNEL_ARGUMENTS: Sequence[tuple[str, int | str]] = (
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    ("grpc.per_rpc_retry_buffer_size", 64 * 2**20),
    ("grpc.enable_retries", 1),
    ("grpc.service_config", json.dumps(_RETRY_POLICY)),
    # A server that was down and is back must be found within the retries above, about 0.7 s; by
    # default gRPC waits longer and longer, up to two minutes, and tells other channels to wait too.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 400),
)


@dataclass(frozen=True)
class Address:
    """Where a server listens: ``host:port``, and the protocol it speaks there."""

    host: str
    protocol: Protocol

    def __str__(self) -> str:
        return f"http://{self.host}" if self.protocol == "http" else self.host


def parse_address(url: str, protocol: str | None = None) -> Address:
    """Read a server's address.

    Args:
        url: ``localhost:8001``, ``grpc://localhost:8001`` or ``http://localhost:8000``; without a
            port, Triton's default one.
        protocol: ``grpc`` or ``http``; None takes the URL's word, and gRPC where it says nothing.

    Raises:
        ClientError: the URL or the protocol is not of this form.
    """
    scheme, separator, host = url.strip().rpartition("://")
    host = host.rstrip("/")
    protocol = protocol or scheme or "grpc"
    if protocol not in ("grpc", "http") or (separator and scheme != protocol) or not host:
        raise ClientError(
            f"'{url}' is no address of a server for the protocol '{protocol}'.",
            "Write localhost:8001 for gRPC or http://localhost:8000 for HTTP.",
        )
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        host = f"{host}:{_DEFAULT_PORTS[protocol]}"
    elif not name or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ClientError(f"'{url}' has no valid port.", "Write it as localhost:8001.")
    return Address(host, "http" if protocol == "http" else "grpc")


class Transport:
    """A connection to a server.

    Args:
        address: where it listens.
        timeout: seconds that any call may take.

    Attributes:
        module: ``tritonclient.grpc`` or ``tritonclient.http``.
        client: that module's InferenceServerClient.
    """

    module: Any
    client: Any

    def __init__(self, address: Address, timeout: float) -> None:
        self.address = address
        self.timeout = timeout

    def connect(self, name: str, version: str = "") -> ServedModel:
        """Read what the server says of a model.

        Raises:
            ServerUnavailable: nothing answers, or it speaks the other protocol.
            ModelUnavailable: the model is not served, or does not classify raw RGB images.
        """
        try:
            metadata = self.call("get_model_metadata", name, version)
            config = self.call("get_model_config", name, version)
        except ServerUnavailable as error:
            raise diagnose(self.address, error) from None
        except ModelUnavailable:
            raise not_served(self.address, name, version, self.index()) from None
        return read_model(metadata, config.get("config", config), version)

    def index(self) -> list[dict[str, Any]]:
        """The models in the server's repository: name, version, state, reason."""
        reply = self.call("get_model_repository_index")
        return list(reply.get("models", []) if isinstance(reply, dict) else reply)

    def call(self, method: str, *arguments: str) -> Any:
        """Call one of tritonclient's descriptive methods, and return its JSON."""
        try:
            return getattr(self.client, method)(*arguments, **self._options())
        except failures() as error:
            raise self.explain(error) from error
        except ValueError as error:  # an answer that is no JSON
            raise ServerUnavailable(
                f"What answers at {self.address} is no Triton Inference Server.",
                "Give the address of one, or start it with: delugeserve serve",
            ) from error

    def submit(self, model: ServedModel, batch: Pixels, outputs: Outputs) -> Callable[[], Reply]:
        """Send a batch; over HTTP it is sent when the reply is waited for.

        Args:
            model: the model.
            batch: uint8 ``[N, H, W, 3]``, at most the model's ``max_batch_size``.
            outputs: wanted outputs; a number above 0 asks for that many classes as strings
                (Triton's classification extension) instead of the values.

        Returns:
            A function that waits for the reply and returns its arrays by output name. It raises
            ServerUnavailable, ModelUnavailable or InferenceFailed.
        """
        raise NotImplementedError

    def explain(self, error: BaseException) -> ClientError:
        """Say in the client's terms what tritonclient or the network reported."""
        return explain(error, self.address, self.timeout)

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def _options(self) -> dict[str, Any]:
        raise NotImplementedError


class GrpcTransport(Transport):
    """gRPC: several requests in flight on one connection, from any thread."""

    def __init__(self, address: Address, timeout: float) -> None:
        super().__init__(address, timeout)
        self.module = import_triton("grpc")
        self.client = self.module.InferenceServerClient(
            address.host, channel_args=list(CHANNEL_ARGUMENTS)
        )

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
            **request(self.module, model, batch, outputs),
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
    """HTTP: one request at a time, in one thread; tritonclient's HTTP half allows no more."""

    def __init__(self, address: Address, timeout: float) -> None:
        super().__init__(address, timeout)
        self.module = import_triton("http")
        self.client = self.module.InferenceServerClient(
            address.host, connection_timeout=timeout, network_timeout=timeout
        )

    def submit(self, model: ServedModel, batch: Pixels, outputs: Outputs) -> Callable[[], Reply]:  # noqa: D102
        def infer() -> Reply:
            try:
                result = self.client.infer(**request(self.module, model, batch, outputs))
                return read_reply(result, outputs)
            except failures() as error:
                raise self.explain(error) from error

        return infer

    def _options(self) -> dict[str, Any]:
        return {}


def open_transport(address: Address, timeout: float) -> Transport:
    """Make the connection that an address asks for; nothing is sent yet.

    Raises:
        ClientError: tritonclient, or what it takes for this protocol, is not installed.
    """
    return (GrpcTransport if address.protocol == "grpc" else HttpTransport)(address, timeout)


def import_triton(name: str) -> Any:
    """Import a module of tritonclient.

    Args:
        name: such as ``grpc``.

    Raises:
        ClientError: it, or what it takes, is not installed.
    """
    try:
        return importlib.import_module(f"tritonclient.{name}")
    except (ModuleNotFoundError, RuntimeError) as error:
        # Of what it takes itself, tritonclient raises a RuntimeError.
        missing = error.__cause__ if isinstance(error, RuntimeError) else error
        if not isinstance(missing, ModuleNotFoundError):
            raise
        raise ClientError(
            f"This needs '{missing.name}', which is not installed.",
            "Install it with: pip install 'tritonclient[grpc,http]'",
        ) from error


def request(module: Any, model: ServedModel, batch: Pixels, outputs: Outputs) -> dict[str, Any]:
    """A request as tritonclient's ``infer`` methods take it, for either of its modules."""
    tensor = module.InferInput(model.input_name, list(batch.shape), "UINT8")
    tensor.set_data_from_numpy(np.ascontiguousarray(batch))
    return {
        "model_name": model.name,
        "model_version": model.version,
        "inputs": [tensor],
        "outputs": [
            module.InferRequestedOutput(name, class_count=classes)
            for name, classes in outputs.items()
        ],
    }


def read_reply(result: Any, outputs: Outputs) -> Reply:
    """The arrays of an answered request, by output name."""
    return {name: result.as_numpy(name) for name in outputs}


def explain(error: BaseException, address: Address, timeout: float) -> ClientError:
    """Say in the client's terms what tritonclient or the network reported."""
    status = str(getattr(error, "status", lambda: "")() or "").rpartition(".")[2]
    text = str(getattr(error, "message", lambda: error)() or error).strip()
    if status in ("NOT_FOUND", "404") or "unknown model" in text:
        return ModelUnavailable(f"{_sentence(text)}", "See what the server serves, and its log.")
    if status in ("DEADLINE_EXCEEDED", "499") or isinstance(error, TimeoutError):
        return ServerUnavailable(
            f"The server at {address} did not answer within {timeout:g} s.",
            "Allow more time, or look at what keeps the server busy.",
        )
    # UNAVAILABLE is also how Triton itself says that a queue is full or a model not ready.
    # gRPC's own words may hold the host's name, in which anything may stand.
    words = text.replace(address.host.rpartition(":")[0], "").lower()
    said_by_server = any(word in words for word in ("model", "request", "queue"))
    if not status or (status == "UNAVAILABLE" and not said_by_server):
        return no_answer(address)
    return InferenceFailed(
        f"The server at {address} refused: {_sentence(text)}", "Its log may say more."
    )


def no_answer(address: Address) -> ServerUnavailable:
    """Nothing answers at an address."""
    return ServerUnavailable(
        f"No server answers at {address}.", "Start one with: delugeserve serve"
    )


def not_served(
    address: Address, name: str, version: str, index: Sequence[Mapping[str, Any]]
) -> ModelUnavailable:
    """Say which models a server does serve.

    Args:
        address: the server's.
        name: the model asked for.
        version: the version asked for, or empty.
        index: the server's repository index.
    """
    ready = [entry for entry in index if entry.get("state") == "READY"]
    versions = [str(entry.get("version")) for entry in ready if entry.get("name") == name]
    if versions and version:
        return ModelUnavailable(
            f"The server at {address} serves no version {version} of '{name}'.",
            f"It serves version {', '.join(versions)}.",
        )
    for entry in index:
        if entry.get("name") == name and entry.get("state") != "READY":
            reason = str(entry.get("reason") or "no reason given").strip().splitlines()[0]
            return ModelUnavailable(
                f"The server at {address} could not load '{name}': {_sentence(reason)}",
                "Its log says more.",
            )
    served = sorted({str(entry.get("name")) for entry in ready})
    nearest = difflib.get_close_matches(name, served, n=1, cutoff=0.4)
    remedy = f"It serves: {', '.join(served)}." if served else "It serves no model at all."
    if nearest:
        remedy = f"Did you mean '{nearest[0]}'? {remedy}"
    return ModelUnavailable(f"The server at {address} serves no model '{name}'.", remedy)


def diagnose(address: Address, error: ServerUnavailable) -> ServerUnavailable:
    """Find out whether an address that does not answer speaks the other protocol.

    Args:
        address: the address.
        error: what is wrong if it does not.
    """
    if address.protocol == "grpc" and _speaks_http(address.host):
        return ServerUnavailable(
            f"{address.host} speaks HTTP, not gRPC.",
            f"Use the server's gRPC port, usually 8001, or http://{address.host} for HTTP.",
        )
    if address.protocol == "http" and _speaks_grpc(address.host):
        return ServerUnavailable(
            f"{address.host} speaks gRPC, not HTTP.",
            f"Use {address.host} without http://, or the server's HTTP port, usually 8000.",
        )
    return error


def _speaks_http(host: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(f"http://{host}/v2/health/live", timeout=_PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return True  # an answer, if not the one asked for
    except (OSError, HTTPException, ValueError):
        return False
    return True


def _speaks_grpc(host: str) -> bool:
    try:
        probe = GrpcTransport(Address(host, "grpc"), _PROBE_SECONDS)
    except ClientError:  # only the HTTP half of tritonclient is installed
        return False
    try:
        return bool(probe.client.is_server_live(client_timeout=_PROBE_SECONDS))
    except failures():
        return False
    finally:
        probe.close()


def failures() -> tuple[type[Exception], ...]:
    """What tritonclient lets through: its own errors, and of HTTP the network's."""
    from tritonclient.utils import InferenceServerException

    return (InferenceServerException, OSError, HTTPException)


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?")) else f"{text}."
