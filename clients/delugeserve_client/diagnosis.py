"""From what tritonclient, the network and the server report to the client's own errors."""

from __future__ import annotations

import contextlib
import difflib
import os
import shlex
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import Any, TypeAlias

from delugeserve_client.address import Address
from delugeserve_client.credentials import API_KEY, CA, CERTIFICATE, PRIVATE_KEY, Credentials
from delugeserve_client.errors import (
    AuthenticationFailed,
    ClientError,
    InferenceFailed,
    MissingPackageError,
    ModelUnavailable,
    ServerTimeout,
    ServerUnavailable,
    WrongProtocol,
)
from delugeserve_client.proxies import Proxy, find_proxy, is_loopback
from delugeserve_client.served import COMPANION_SUFFIXES
from delugeserve_client.triton import failures, open_client

RepositoryIndex: TypeAlias = Sequence[Mapping[str, Any]]

_PROBE_SECONDS = 2.0
_REFUSAL_SECONDS = 0.5


def explain(error: BaseException, address: Address, timeout: float) -> ClientError:
    """Translate an error of tritonclient or of the network.

    Args:
        error: the error.
        address: the server's address.
        timeout: seconds that the call had.
    """
    url = str(address)
    status = str(getattr(error, "status", lambda: "")() or "").rpartition(".")[2]
    text = str(getattr(error, "message", lambda: error)() or error).strip()
    if status in ("NOT_FOUND", "404") or "unknown model" in text:
        return ModelUnavailable(
            _sentence(text),
            "Check the server's log: the model may have been unloaded or replaced.",
            url=url,
        )
    if status in ("UNAUTHENTICATED", "401"):
        return AuthenticationFailed(
            f"The server at {address} does not accept this client: {_sentence(text)}",
            f"Set {API_KEY} to a key that the server's owner made with: delugeserve keys add NAME",
            url=url,
        )
    if isinstance(error, ssl.SSLError):
        return _no_handshake(address, error)
    if status in ("DEADLINE_EXCEEDED", "499") or isinstance(error, TimeoutError):
        proxy = find_proxy(address.host) if address.protocol == "grpc" else None
        through = f" through the proxy {proxy}" if proxy else ""
        return ServerTimeout(
            f"The server at {address} did not answer{through} within {timeout:g} s.",
            "Allow a longer timeout (--timeout on the command line), or check "
            + (f"the proxy; {_without_proxy(address, proxy)}" if proxy else "the server's load."),
            url=url,
            proxy=proxy.url if proxy else "",
            timeout=timeout,
        )
    # Triton also answers UNAVAILABLE itself, where a queue is full or a model is not ready. The
    # host's name is cut out first: gRPC's own messages may quote it, and it may hold any word.
    words = text.replace(address.host.rpartition(":")[0], "").lower()
    from_server = any(word in words for word in ("model", "request", "queue"))
    if not status or (status == "UNAVAILABLE" and not from_server):
        return no_answer(address)
    if "timeout expired" in words:
        return ServerTimeout(
            f"The request waited too long in the queue of the server at {address}.",
            "Send fewer requests at once, or allow a longer timeout (--timeout on the command "
            "line).",
            url=url,
            timeout=timeout,
        )
    if "shared memory" in words:
        # The server's own message names its memory region, and Docker's option only.
        return InferenceFailed(
            f"The server at {address} has too little shared memory for this batch.",
            "Send smaller batches, or give the server more, such as with: docker run --shm-size=1g",
            url=url,
            message=text,
        )
    return InferenceFailed(
        f"The server at {address} refused the request: {_sentence(text)}",
        _remedy(words),
        url=url,
        message=text,
    )


def _remedy(words: str) -> str:
    """Return what to do about a request that a server refused with these words."""
    if "queue" in words:
        return "Send fewer requests at once, or configure a longer queue."
    if "too many requests" in words:
        return "Send fewer requests per second, or start the server with a higher --rate-limit."
    if "request is larger than" in words:
        return "Send smaller batches, or start the server with a larger --max-request-mib."
    return "See the server's log for details."


def _no_handshake(address: Address, error: ssl.SSLError) -> AuthenticationFailed:
    """Return the error for a TLS connection that was not made."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return AuthenticationFailed(
            f"The certificate of the server at {address} is not trusted: "
            f"{_sentence(error.verify_message)}",
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


def not_triton(address: Address) -> ServerUnavailable:
    """Return the error for an address where another kind of server answers."""
    return ServerUnavailable(
        f"The server at {address} is not a Triton Inference Server.",
        "Use the address of one: 'delugeserve serve' prints its own.",
        url=str(address),
    )


def choose_model(address: Address, index: RepositoryIndex) -> str:
    """Return the name of a server's only model.

    Args:
        address: the server's address.
        index: the server's repository index.

    Raises:
        ModelUnavailable: the server has no model ready, or several.
    """
    served = _served(index)
    if len(served) == 1:
        return served[0]
    if served:
        raise ModelUnavailable(
            f"The server at {address} serves several models: {', '.join(served)}.",
            f"Choose one as the model, such as --model {served[0]} on the command line.",
            url=str(address),
            served=served,
        )
    if index:
        raise _not_loaded(address, index[0], None, served)
    raise _serves_nothing(address, None)


def not_served(
    address: Address, name: str, version: str, index: RepositoryIndex
) -> ModelUnavailable:
    """Return the error for a model or a version that a server does not have ready.

    Args:
        address: the server's address.
        name: the model asked for.
        version: the version asked for, or empty.
        index: the server's repository index.
    """
    served = _served(index)
    versions = [
        str(entry.get("version"))
        for entry in index
        if entry.get("name") == name and entry.get("state") == "READY"
    ]
    if versions and version:
        return ModelUnavailable(
            f"The server at {address} does not serve version {version} of '{name}'.",
            f"Use version {' or '.join(versions)}.",
            url=str(address),
            model=name,
            version=version,
            served=served,
        )
    for entry in index:
        if entry.get("name") == name and entry.get("state") != "READY":
            return _not_loaded(address, entry, name, served)
    if not served:
        return _serves_nothing(address, name)
    nearest = difflib.get_close_matches(name, served, n=1, cutoff=0.4)
    remedy = f"It serves: {', '.join(served)}."
    return ModelUnavailable(
        f"The server at {address} does not serve a model '{name}'.",
        f"Did you mean '{nearest[0]}'? {remedy}" if nearest else remedy,
        url=str(address),
        model=name,
        version=version,
        served=served,
    )


def diagnose(
    address: Address, error: ServerUnavailable, credentials: Credentials
) -> ServerUnavailable | AuthenticationFailed:
    """Find out whether an address that does not answer speaks the other protocol, or TLS.

    Args:
        address: the address.
        error: the error to return if it does not.
        credentials: what the client shows to the server.
    """
    if address.secure:
        with contextlib.suppress(OSError):
            refused = _handshake(address.host, credentials.tls_context())
            return error if refused is None else _no_handshake(address, refused)
        return error
    if _speaks_tls(address.host):
        scheme = {"grpc": "grpcs", "http": "https"}[address.protocol]
        return WrongProtocol(
            f"{address.host} speaks TLS.",
            f"Use {scheme}://{address.host}.",
            url=str(address),
            found="tls",
        )
    if address.protocol == "grpc" and _speaks_http(address.host):
        return WrongProtocol(
            f"{address.host} speaks HTTP, not gRPC.",
            f"Use the server's gRPC port, usually 8001, or http://{address.host} for HTTP.",
            url=str(address),
            found="http",
        )
    if address.protocol == "http" and _speaks_grpc(address, credentials):
        return WrongProtocol(
            f"{address.host} speaks gRPC, not HTTP.",
            f"Use {address.host} without http://, or the server's HTTP port, usually 8000.",
            url=str(address),
            found="grpc",
        )
    return error


def _served(index: RepositoryIndex) -> list[str]:
    """Return the models that are ready, without those that belong to another one."""
    ready = {str(entry.get("name")) for entry in index if entry.get("state") == "READY"}
    companions = {name + suffix for name in ready for suffix in COMPANION_SUFFIXES}
    return sorted(ready - companions)


def _not_loaded(
    address: Address, entry: Mapping[str, Any], name: str | None, served: Sequence[str]
) -> ModelUnavailable:
    reason = str(entry.get("reason") or "it gives no reason").strip().splitlines()[0]
    return ModelUnavailable(
        f"The server at {address} could not load '{entry.get('name')}': {_sentence(reason)}",
        "See the server's log for details.",
        url=str(address),
        model=name,
        served=served,
    )


def _serves_nothing(address: Address, name: str | None) -> ModelUnavailable:
    return ModelUnavailable(
        f"The server at {address} does not serve any model.",
        "Export one into its model repository with 'delugeserve export', and restart the server if "
        "it does not follow its repository.",
        url=str(address),
        model=name,
    )


def _speaks_http(host: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(f"http://{host}/v2/health/live", timeout=_PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return True  # an HTTP answer, whatever its status
    except (OSError, HTTPException, ValueError):
        return False
    return True


def _speaks_tls(host: str) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        refused = _handshake(host, context)
    except OSError:
        return False
    # A server that wants a client certificate refuses with one of TLS's alerts.
    return refused is None or "ALERT" in (refused.reason or "")


def _handshake(host: str, context: ssl.SSLContext) -> ssl.SSLError | None:
    """Make a TLS connection; return the error if it is refused.

    Raises:
        OSError: nothing listens there.
    """
    parts = urllib.parse.urlsplit(f"//{host}")
    with socket.create_connection((parts.hostname or "", parts.port or 0), _PROBE_SECONDS) as plain:
        try:
            with (
                context.wrap_socket(plain, server_hostname=parts.hostname) as stream,
                contextlib.suppress(TimeoutError),
            ):
                # With TLS 1.3 a server looks at the client's certificate after the handshake.
                stream.settimeout(_REFUSAL_SECONDS)
                stream.recv(1)
        except ssl.SSLError as error:
            return error
    return None


def _speaks_grpc(address: Address, credentials: Credentials) -> bool:
    asked = Address(address.host, "grpc")
    try:
        probe = open_client("grpc", asked, credentials)
    except MissingPackageError:  # only the HTTP half of tritonclient is installed
        return False
    try:
        return bool(probe.is_server_live(client_timeout=_PROBE_SECONDS))
    except failures():
        return False
    finally:
        probe.close()


def _without_proxy(address: Address, proxy: Proxy) -> str:
    """Return how to reach an address directly, as the end of a remedy."""
    name = address.host.rpartition(":")[0].strip("[]")
    hosts = ",".join(filter(None, [os.environ.get(proxy.bypass, ""), name]))
    command = f"export {proxy.bypass}={shlex.quote(hosts)}"
    return f"if {name} is reached without the proxy, run: {command}"


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?")) else f"{text}."
