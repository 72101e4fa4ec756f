"""From what the network and the server report to the client's own errors."""

from __future__ import annotations

import math
import os
import shlex
import ssl
from http.client import HTTPException
from typing import Any

from delugeserve_client.address import Address
from delugeserve_client.core.failures import Failure, Kind
from delugeserve_client.credentials import API_KEY, CA, CERTIFICATE, PRIVATE_KEY
from delugeserve_client.errors import (
    AuthenticationFailed,
    ClassifierClosed,
    ClientError,
    ForkedClassifier,
    InferenceFailed,
    ModelUnavailable,
    QueueFull,
    RequestRefused,
    ServerDraining,
    ServerGone,
    ServerOverloaded,
    ServerTimeout,
    ServerUnavailable,
)
from delugeserve_client.proxies import Proxy, find_proxy, is_loopback

_STATUSES = {
    "400": "INVALID_ARGUMENT",
    "401": "UNAUTHENTICATED",
    "403": "PERMISSION_DENIED",
    "404": "NOT_FOUND",
    "408": "DEADLINE_EXCEEDED",
    "413": "RESOURCE_EXHAUSTED",
    "429": "RESOURCE_EXHAUSTED",
    "431": "RESOURCE_EXHAUSTED",
    "499": "DEADLINE_EXCEEDED",
    "502": "UNAVAILABLE",
    "503": "UNAVAILABLE",
    "504": "DEADLINE_EXCEEDED",
}
BROKEN_CONNECTION = (
    ConnectionError,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
    ssl.SSLSyscallError,
)
"""What a connection raises that the other side, or something between, ended."""

_TOO_LARGE = ("larger than", "too large", "message size")
_OWN_DEADLINE = ("", "deadline exceeded")  # what gRPC says of the client's own
_NO_MEMORY = ("out of memory", "bad_alloc", "failed to allocate", "cannot allocate memory")
_NOT_READY = ("server is stopping", "stopped accepting", "no server is ready", "not ready")
_SERVERS_WORDS = ("model", "request", "queue", "server is")


def failure_of(error: BaseException, host: str = "") -> Failure:
    """Return the failure behind an error of gRPC or of the network.

    Args:
        error: the error.
        host: the server's ``host:port``, whose name gRPC's own messages may quote.
    """
    if isinstance(error, BROKEN_CONNECTION):
        return Failure(Kind.GONE, str(error), cause=error)
    if isinstance(error, ssl.SSLError):
        return Failure(Kind.DENIED, str(error), cause=error)
    if isinstance(error, TimeoutError):
        return Failure(Kind.TIMEOUT, str(error), cause=error)
    code = getattr(error, "code", None)
    if not callable(code):
        return classify_failure("", str(error), host, error)
    # grpc.RpcError
    text = str(getattr(error, "details", str)() or "")
    return classify_failure(getattr(code(), "name", ""), text, host, error, _wait(error))


def _wait(error: Any) -> float:
    """Return seconds that a server asks to wait, in the last metadata of an answer over gRPC."""
    found = dict(error.trailing_metadata() or ())
    for name, unit in (("grpc-retry-pushback-ms", 1e-3), ("retry-after", 1.0)):
        if name in found:
            return seconds_to_wait(found[name], unit)
    return 0.0


def seconds_to_wait(stated: object, unit: float = 1.0) -> float:
    """Return seconds that a server asks to wait; 0 if it gives no number.

    Args:
        stated: the value of the header.
        unit: its unit in seconds.
    """
    try:
        seconds = float(str(stated)) * unit
    except ValueError:  # a date: HTTP's clocks differ
        return 0.0
    return seconds if 0 < seconds < math.inf else 0.0


def classify_failure(
    status: str, text: str, host: str = "", cause: BaseException | None = None, wait: float = 0.0
) -> Failure:
    """Return the failure that a status and a message tell.

    Args:
        status: gRPC's name of the status, or HTTP's number; empty where no server answered.
        text: the message.
        host: see :func:`failure_of`.
        cause: the exception, if there is one.
        wait: seconds that the server asks to wait.
    """
    text = text.strip()
    name = _STATUSES.get(status, status)
    # The host's name is cut out first: it may hold any word.
    words = text.replace(host.rpartition(":")[0] or host or "\0", "").lower()
    return Failure(_kind(name, status, words), text, status, wait, cause)


def _kind(name: str, status: str, words: str) -> Kind:
    if name == "NOT_FOUND" or "unknown model" in words:
        return Kind.MISSING
    if "timeout expired" in words:
        return Kind.EXPIRED
    if "queue size" in words or "queue is full" in words:
        return Kind.QUEUE_FULL
    if any(phrase in words for phrase in _NOT_READY):
        return Kind.DRAINING
    if name == "UNAUTHENTICATED":
        return Kind.DENIED
    if name == "DEADLINE_EXCEEDED":
        return Kind.TIMEOUT
    if name == "RESOURCE_EXHAUSTED":
        return Kind.REFUSED if any(phrase in words for phrase in _TOO_LARGE) else Kind.OVERLOADED
    # Triton also answers UNAVAILABLE itself.
    if name == "UNAVAILABLE" and status != "502" and any(one in words for one in _SERVERS_WORDS):
        return Kind.DRAINING
    if name in ("", "UNAVAILABLE", "CANCELLED"):
        return Kind.GONE
    if name in ("INTERNAL", "UNKNOWN", "ABORTED", "DATA_LOSS", "500"):
        return Kind.BROKEN
    return Kind.REFUSED


def to_error(failure: Failure, address: Address, timeout: float, model: str = "") -> ClientError:
    """Return the error for a failure.

    Args:
        failure: the failure.
        address: the server's address.
        timeout: seconds that the request had.
        model: the model that was asked.
    """
    url, text, kind = str(address), failure.message, failure.kind
    if kind is Kind.CLOSED:
        return closed()
    if kind is Kind.MISSING:
        return ModelUnavailable(
            sentence(text),
            "It may have been unloaded or replaced; a new Classifier lists what is served.",
            url=url,
            model=model or None,
        )
    if kind is Kind.DENIED:
        if isinstance(failure.cause, ssl.SSLError):
            return no_handshake(address, failure.cause)
        return AuthenticationFailed(
            f"The server at {address} does not accept this client: {sentence(text)}",
            f"Set {API_KEY} to a key that the server's owner made with: delugeserve keys add NAME",
            url=url,
        )
    if kind is Kind.TIMEOUT:
        if text.lower().rstrip(".") in _OWN_DEADLINE or not failure.status:
            return _no_answer_in_time(address, timeout)
        return ServerTimeout(
            f"The server at {address}, or a proxy in front of it, gave the request up: "
            f"{sentence(text)}",
            "Send fewer requests at once, or raise the proxy's time limit.",
            url=url,
            timeout=timeout,
        )
    if kind is Kind.GONE:
        return no_answer(address) if _never_connected(failure) else _gone(address)
    if kind is Kind.DRAINING:
        return ServerDraining(
            f"The server at {address} takes no requests at the moment: {sentence(text)}",
            "Wait until it has started, or send the requests to another server.",
            url=url,
            retry_after=failure.retry_after,
        )
    return _failed(failure, address, timeout, model)


def _failed(failure: Failure, address: Address, timeout: float, model: str) -> ClientError:
    url, text, kind = str(address), failure.message, failure.kind
    if kind is Kind.EXPIRED:
        return ServerTimeout(
            f"The request waited too long in the queue of the server at {address}.",
            "Send fewer requests at once, or allow a longer timeout (--timeout on the command "
            "line).",
            url=url,
            timeout=timeout,
        )
    problem = f"The server at {address} refused the request: {sentence(text)}"
    if kind is Kind.QUEUE_FULL:
        return QueueFull(
            problem,
            "Send fewer requests at once, or configure a longer queue.",
            url=url,
            message=text,
            retry_after=failure.retry_after,
            model=model,
        )
    if kind is Kind.OVERLOADED:
        return ServerOverloaded(
            problem,
            "Send fewer requests per second, or start the server with a higher --rate-limit.",
            url=url,
            message=text,
            retry_after=failure.retry_after,
        )
    words = text.lower()
    if "shared memory" in words:
        # The server's own message names its memory region, and Docker's option only.
        return InferenceFailed(
            f"The server at {address} has too little shared memory for this batch.",
            "Send smaller batches, or give the server more, such as with: docker run --shm-size=1g",
            url=url,
            message=text,
        )
    if kind is Kind.REFUSED:
        remedy = _remedy(words, failure.status)
        return RequestRefused(problem, remedy, url=url, message=text, status=failure.status)
    if not failure.status:  # no server said so
        return InferenceFailed(
            f"The request to the server at {address} failed: {sentence(text)}",
            "Check that a Triton Inference Server answers there, and no proxy changes its answers.",
            url=url,
            message=text,
        )
    memory = any(phrase in words for phrase in _NO_MEMORY)
    return InferenceFailed(
        f"The server at {address} failed at the request: {sentence(text)}",
        "Send smaller batches." if memory else "See the server's log for details.",
        url=url,
        message=text,
    )


def _remedy(words: str, status: str) -> str:
    """Return what to do about a request that a server refused with these words."""
    if "request is larger than" in words:
        return "Send smaller batches, or start the server with a larger --max-request-mib."
    if "batch-size must be" in words:
        return "The model was exported again since: make a new Classifier, which reads its limits."
    if (
        status in ("UNIMPLEMENTED", "405", "501")
        or "api is closed" in words
        or "not supported" in words
    ):
        return "The server does not offer this; ask whoever runs it."
    if status in ("PERMISSION_DENIED", "403"):
        return "Ask whoever runs the server to allow it."
    return "Send what the model takes: a new Classifier reads its description from the server."


def closed() -> ClassifierClosed:
    """Return the error for a classifier that was closed."""
    return ClassifierClosed(
        "The classifier is closed.", "Make a new one, or close it when all work is done."
    )


def forked(pid: int) -> ForkedClassifier:
    """Return the error for a classifier that was made before this process was forked."""
    return ForkedClassifier(
        f"The classifier was made in process {pid}, and gRPC's connections do not survive a fork.",
        "Make a classifier in each process, start processes with the method 'spawn', or use the "
        "server's HTTP address.",
        pid=pid,
    )


def _never_connected(failure: Failure) -> bool:
    if isinstance(failure.cause, ConnectionRefusedError):
        return True
    words = failure.message.lower()
    broke = ("socket closed", "reset", "goaway", "broken", "does not answer", "disconnected")
    return not (
        isinstance(failure.cause, (*BROKEN_CONNECTION, HTTPException))
        or failure.status == "CANCELLED"
        or any(word in words for word in broke)
    )


def _gone(address: Address) -> ServerGone:
    return ServerGone(
        f"The server at {address} stopped answering.",
        "Check that it still runs; requests that were answered need not be sent again.",
        url=str(address),
    )


def _no_answer_in_time(address: Address, timeout: float) -> ServerTimeout:
    proxy = find_proxy(address.host) if address.protocol == "grpc" else None
    through = f" through the proxy {proxy}" if proxy else ""
    return ServerTimeout(
        f"The server at {address} did not answer{through} within {timeout:g} s.",
        "Allow a longer timeout (--timeout on the command line), or check "
        + (f"the proxy; {_without_proxy(address, proxy)}" if proxy else "the server's load."),
        url=str(address),
        proxy=proxy.url if proxy else "",
        timeout=timeout,
    )


def no_handshake(address: Address, error: ssl.SSLError) -> AuthenticationFailed:
    """Return the error for a TLS connection that was not made."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return AuthenticationFailed(
            f"The certificate of the server at {address} is not trusted: "
            f"{sentence(error.verify_message)}",
            f"Set {CA} to the PEM file of its authority, and use a host name of the certificate.",
            url=str(address),
        )
    if error.reason == "WRONG_VERSION_NUMBER":
        return AuthenticationFailed(
            f"The server at {address} does not speak TLS.",
            f"Use {Address(address.host, address.protocol)}.",
            url=str(address),
        )
    return AuthenticationFailed(
        f"The server at {address} does not accept this client's TLS connection.",
        f"Set {CERTIFICATE} and {PRIVATE_KEY} to a client certificate that the server accepts.",
        url=str(address),
    )


def no_answer(address: Address) -> ServerUnavailable:
    """Return the error for an address where no server answers."""
    url, (name, _, port) = str(address), address.host.rpartition(":")
    if is_loopback(name):
        option = {"grpc": "--grpc-port", "http": "--http-port"}[address.protocol]
        port_option = "" if address.has_default_port else f" {option} {port}"
        return ServerUnavailable(
            f"No server answers at {address}.",
            f"Start one with: delugeserve serve{port_option}",
            url=url,
        )
    check = (
        "Check that a server runs there, that it was started with --host to listen on an address "
        f"which other machines reach, and that no firewall blocks port {port}"
    )
    proxy = find_proxy(address.host)
    if proxy is None:
        return ServerUnavailable(f"No server answers at {address}.", f"{check}.", url=url)
    if address.protocol == "http":
        return ServerUnavailable(
            f"No server answers at {address}, which was asked without the proxy {proxy}: this "
            "client's HTTP does not use proxies.",
            f"{check}, or use the server's gRPC address, which is reached through the proxy.",
            url=url,
        )
    return ServerUnavailable(
        f"No server answers at {address} through the proxy {proxy}.",
        f"{check}; {_without_proxy(address, proxy)}",
        url=url,
        proxy=proxy.url,
    )


def _without_proxy(address: Address, proxy: Proxy) -> str:
    """Return how to reach an address directly, as the end of a remedy."""
    name = address.host.rpartition(":")[0].strip("[]")
    hosts = ",".join(filter(None, [os.environ.get(proxy.bypass, ""), name]))
    command = f"export {proxy.bypass}={shlex.quote(hosts)}"
    return f"if {name} is reached without the proxy, run: {command}"


def sentence(text: str) -> str:
    """Return a message on one line, with its full stop."""
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?")) else f"{text}."
