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
        private_key: PEM file of its private key, without a password; None if the certificate's file
            holds it.

    Raises:
        AuthenticationFailed: the API key has characters that no header can carry.
    """

    api_key: str | None = field(default=None, repr=False)
    ca: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None

    def __post_init__(self) -> None:
        for name in ("ca", "certificate", "private_key"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(path))
        key = self.api_key
        if key is not None and not (key.isascii() and key.isprintable()):
            raise AuthenticationFailed(
                "The API key has characters that a header cannot carry.",
                f"Set {API_KEY} to a key as 'delugeserve keys add NAME' prints it.",
            )

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

    def grpc_credentials(self, grpc: Any) -> Any:
        """Return the ``ChannelCredentials`` that gRPC's connections with TLS need.

        Args:
            grpc: the module ``grpc``.

        Raises:
            AuthenticationFailed: see :meth:`tls_context`.
        """
        self.tls_context()  # gRPC says nothing of bad files, or ends the process
        authorities = self.ca or _system_authorities()
        return grpc.ssl_channel_credentials(
            _read(authorities), _read(self._key), _read(self.certificate)
        )

    def tls_context(self) -> ssl.SSLContext:
        """Return what Python's own connections with TLS need.

        Raises:
            AuthenticationFailed: a file cannot be read or holds something else, or there is a
                private key without a certificate.
        """
        for path in (self.ca, self.certificate, self.private_key):
            _read(path)
        context = _trusting(self.ca)
        if self.certificate is None:
            if self.private_key is not None:
                raise AuthenticationFailed(
                    f"There is no certificate for the private key {self.private_key}.",
                    f"Set {CERTIFICATE} to the PEM file of the certificate.",
                )
            return context
        _trusting(self.certificate)
        try:
            context.load_cert_chain(self.certificate, self._key, password="")
        except ssl.SSLError as error:
            mismatch = error.reason == "KEY_VALUES_MISMATCH"
            raise AuthenticationFailed(
                f"The private key in {self._key} does not belong to {self.certificate}."
                if mismatch
                else f"{self._key} does not hold a private key that needs no password.",
                f"Set {PRIVATE_KEY} to the PEM file of the certificate's private key.",
            ) from None
        return context

    @property
    def _key(self) -> Path | None:
        """The file of the private key, which may be the certificate's."""
        return self.private_key or self.certificate


NO_CREDENTIALS = Credentials()


def _system_authorities() -> Path | None:
    path = ssl.get_default_verify_paths().cafile
    return Path(path) if path else None


def _trusting(path: Path | None) -> ssl.SSLContext:
    """Return what trusts the certificates of a PEM file; None for the system's."""
    try:
        return ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise AuthenticationFailed(
            f"{path} does not hold a certificate in PEM form.",
            f"Set {CA} and {CERTIFICATE} to PEM files of certificates.",
        ) from None


def _read(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise AuthenticationFailed(
            f"{path} cannot be read ({error.strerror}).",
            f"Set {CA}, {CERTIFICATE} and {PRIVATE_KEY} to PEM files that can be read.",
        ) from None
