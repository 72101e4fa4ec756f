"""What is wrong with an address or a model's name that a server does not answer for."""

from __future__ import annotations

import contextlib
import difflib
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import Any, TypeAlias

from delugeserve_client.address import Address
from delugeserve_client.core.failures import Kind
from delugeserve_client.credentials import Credentials
from delugeserve_client.errors import (
    AuthenticationFailed,
    MissingPackageError,
    ModelUnavailable,
    ServerUnavailable,
    WrongProtocol,
)
from delugeserve_client.explaining import no_handshake, sentence
from delugeserve_client.served import COMPANION_SUFFIXES
from delugeserve_client.transports.connection import CallFailed, Options
from delugeserve_client.transports.threads import open_connection

RepositoryIndex: TypeAlias = Sequence[Mapping[str, Any]]

_PROBE_SECONDS = 2.0
_REFUSAL_SECONDS = 0.5


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
    address: Address,
    error: ServerUnavailable,
    credentials: Credentials,
    seconds: float = _PROBE_SECONDS,
) -> ServerUnavailable | AuthenticationFailed:
    """Find out whether an address that does not answer speaks the other protocol, or TLS.

    Args:
        address: the address.
        error: the error to return if it does not.
        credentials: what the client shows to the server.
        seconds: time that each protocol has.
    """
    seconds = min(seconds, _PROBE_SECONDS)
    if address.secure:
        with contextlib.suppress(OSError):
            refused = _handshake(address.host, credentials.tls_context(), seconds)
            return error if refused is None else no_handshake(address, refused)
        return error
    if _speaks_tls(address.host, seconds):
        scheme = {"grpc": "grpcs", "http": "https"}[address.protocol]
        return WrongProtocol(
            f"{address.host} speaks TLS.",
            f"Use {scheme}://{address.host}.",
            url=str(address),
            found="tls",
        )
    if address.protocol == "grpc" and _speaks_http(address.host, seconds):
        return WrongProtocol(
            f"{address.host} speaks HTTP, not gRPC.",
            f"Use the server's gRPC port, usually 8001, or http://{address.host} for HTTP.",
            url=str(address),
            found="http",
        )
    if address.protocol == "http" and _speaks_grpc(address, credentials, seconds):
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
        f"The server at {address} could not load '{entry.get('name')}': {sentence(reason)}",
        "Fix that, or export the model again; the server's log has the details.",
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


def _speaks_http(host: str, seconds: float) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(f"http://{host}/v2/health/live", timeout=seconds).close()
    except urllib.error.HTTPError:
        return True  # an HTTP answer, whatever its status
    except (OSError, HTTPException, ValueError):
        return False
    return True


def _speaks_tls(host: str, seconds: float) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        refused = _handshake(host, context, seconds)
    except OSError:
        return False
    # A server that wants a client certificate refuses with one of TLS's alerts.
    return refused is None or "ALERT" in (refused.reason or "")


def _handshake(host: str, context: ssl.SSLContext, seconds: float) -> ssl.SSLError | None:
    """Make a TLS connection; return the error if it is refused.

    Raises:
        OSError: nothing listens there.
    """
    parts = urllib.parse.urlsplit(f"//{host}")
    with socket.create_connection((parts.hostname or "", parts.port or 0), seconds) as plain:
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


def _speaks_grpc(address: Address, credentials: Credentials, seconds: float) -> bool:
    asked = Address(address.host, "grpc")
    try:
        connection = open_connection(asked, Options(credentials))
    except MissingPackageError:  # gRPC is not installed
        return False
    try:
        connection.ask("server", timeout=seconds)
    except CallFailed as error:
        return error.failure.kind is Kind.DENIED
    finally:
        connection.close()
    return True
