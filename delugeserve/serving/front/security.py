"""How the front authenticates clients and encrypts what they send."""

from __future__ import annotations

import shlex
import ssl
from dataclasses import dataclass
from pathlib import Path

from delugeserve.errors import UsageError
from delugeserve.serving import ports
from delugeserve.serving.front.keys import read_keys


@dataclass(frozen=True)
class Jwt:
    """JSON Web Tokens that identify clients.

    Attributes:
        issuer: the issuer (``iss``) of the tokens.
        jwks: JSON file of the issuer's public keys (a JWK set).
        audience: the audience (``aud``) that tokens must have; None accepts any.
    """

    issuer: str
    jwks: Path
    audience: str | None = None


@dataclass(frozen=True)
class Security:
    """TLS and authentication of the front.

    Attributes:
        certificate: PEM file of the server's certificate and its chain; None means no TLS.
        private_key: PEM file of its private key.
        client_ca: PEM file of the authorities whose client certificates are accepted; clients must
            then have one.
        keys: file of API keys, as ``delugeserve keys`` writes it; clients must then send one.
        jwt: tokens that clients must send.
        insecure: accept other machines without TLS and authentication.
    """

    certificate: Path | None = None
    private_key: Path | None = None
    client_ca: Path | None = None
    keys: Path | None = None
    jwt: Jwt | None = None
    insecure: bool = False

    @property
    def authenticates(self) -> bool:
        """Whether the front knows who a client is."""
        return bool(self.keys or self.client_ca or self.jwt)

    def check(self, address: str) -> None:
        """Check that the settings are complete, their files usable, and the address allowed.

        Args:
            address: IPv4 or IPv6 address that the front listens on.

        Raises:
            UsageError: something is missing or cannot be read, or other machines could reach the
                server without TLS and authentication.
        """
        if (self.certificate is None) != (self.private_key is None):
            raise UsageError(
                "TLS needs a certificate and its private key.",
                "Use --tls-certificate and --tls-key together.",
            )
        if self.client_ca is not None and self.certificate is None:
            raise UsageError(
                "Client certificates need TLS.", "Use --tls-certificate and --tls-key as well."
            )
        if self.keys is not None and self.jwt is not None:
            raise UsageError(
                "API keys and JSON Web Tokens cannot be used together.",
                "Leave out --keys or --jwt-issuer.",
            )
        if not (ports.is_loopback(address) or self.insecure):
            self._check_exposed(address)
        self.check_files()

    def check_files(self) -> None:
        """Check that the certificates, keys and token keys can be used.

        Raises:
            UsageError: one cannot.
        """
        if self.certificate is not None and self.private_key is not None:
            check_certificate(self.certificate, self.private_key)
        if self.client_ca is not None:
            check_authorities(self.client_ca)
        if self.keys is not None:
            read_keys(self.keys)
        if self.jwt is not None:
            _read(self.jwt.jwks, "--jwt-keys")

    def _check_exposed(self, address: str) -> None:
        missing = []
        if self.certificate is None:
            missing.append("--tls-certificate and --tls-key")
        if not self.authenticates:
            missing.append("--keys")
        if missing:
            raise UsageError(
                f"Other machines can reach {address}, and the server "
                + ("does not encrypt." if self.authenticates else "does not know its clients."),
                f"Use {' and '.join(missing)}; or --insecure, if everybody who reaches this "
                "address may use the server.",
            )


def check_certificate(certificate: Path, private_key: Path) -> None:
    """Check that a certificate and a private key can be read and belong together.

    Raises:
        UsageError: they cannot, or do not.
    """
    _read(certificate, "--tls-certificate")
    _read(private_key, "--tls-key")
    encrypted = UsageError(
        f"The private key {private_key} has a password.",
        f"Write it without one: openssl pkey -in {shlex.quote(str(private_key))} -out server.key",
    )

    def refuse() -> str:
        raise encrypted

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, private_key, refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UsageError(
                f"The private key {private_key} is not that of the certificate {certificate}.",
                "Give the two files that were made together.",
            ) from None
        raise UsageError(
            f"The certificate {certificate} or its private key {private_key} is not valid PEM.",
            "Give PEM files: the server's certificate followed by its chain, and the key.",
        ) from None


def check_authorities(path: Path) -> None:
    """Check that a file of certificate authorities can be used.

    Raises:
        UsageError: it cannot.
    """
    _read(path, "--client-ca")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        raise UsageError(
            f"{path} has no certificate of an authority.",
            "Give a PEM file with the certificates of the authorities.",
        ) from None


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}).", f"Give {option} a file that exists."
        ) from None
