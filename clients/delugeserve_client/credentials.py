"""What a client shows to a server, and which servers it trusts."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delugeserve_client.errors import AuthenticationFailed

API_KEY = "DELUGESERVE_API_KEY"
CA = "DELUGESERVE_CA"
CERTIFICATE = "DELUGESERVE_CLIENT_CERTIFICATE"
PRIVATE_KEY = "DELUGESERVE_CLIENT_KEY"


@dataclass(frozen=True)
class Credentials:
    """What a client shows to a server, and which servers it trusts.

    Attributes:
        api_key: API key or token, sent as ``authorization: Bearer``; None sends none.
        ca: PEM file of the authorities whose servers are trusted; None takes the system's.
        certificate: PEM file of the client's certificate; None shows none.
        private_key: PEM file of its private key.
    """

    api_key: str | None = field(default=None, repr=False)
    ca: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None

    @classmethod
    def from_environment(cls) -> Credentials:
        """Return what the environment names.

        The variables are ``DELUGESERVE_API_KEY``, ``DELUGESERVE_CA``,
        ``DELUGESERVE_CLIENT_CERTIFICATE`` and ``DELUGESERVE_CLIENT_KEY``.
        """

        def path(name: str) -> Path | None:
            return Path(value) if (value := os.environ.get(name)) else None

        return cls(
            os.environ.get(API_KEY, "").strip() or None,
            path(CA),
            path(CERTIFICATE),
            path(PRIVATE_KEY),
        )

    def grpc_options(self, grpc: Any) -> dict[str, Any]:
        """Return the arguments of a gRPC client of tritonclient for a connection with TLS.

        Args:
            grpc: the module ``grpc``.

        Raises:
            AuthenticationFailed: a file cannot be read.
        """
        authorities = self.ca or _system_authorities()
        return {
            "creds": grpc.ssl_channel_credentials(
                _read(authorities), _read(self.private_key), _read(self.certificate)
            )
        }

    def http_options(self) -> dict[str, Any]:
        """Return the arguments of an HTTP client of tritonclient for a connection with TLS.

        Raises:
            AuthenticationFailed: a file cannot be read.
        """
        options = {}
        for name, path in (
            ("ca_certs", self.ca or _system_authorities()),
            ("certfile", self.certificate),
            ("keyfile", self.private_key),
        ):
            if path is not None:
                _read(path)
                options[name] = str(path)
        return {"ssl": True, "ssl_options": options}

    def tls_context(self) -> ssl.SSLContext:
        """Return what Python's own connections with TLS need.

        Raises:
            AuthenticationFailed: a file cannot be read.
        """
        for path in (self.ca, self.certificate, self.private_key):
            _read(path)
        context = ssl.create_default_context(cafile=self.ca)
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.private_key)
        return context


NO_CREDENTIALS = Credentials()


def _system_authorities() -> Path | None:
    path = ssl.get_default_verify_paths().cafile
    return Path(path) if path else None


def _read(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise AuthenticationFailed(
            f"{path} cannot be read ({error.strerror}).",
            f"Set {CA}, {CERTIFICATE} and {PRIVATE_KEY} to PEM files that can be read.",
        ) from None
