"""How the front authenticates clients and encrypts what they send."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Security:
    """TLS and authentication of the front.

    Attributes:
        certificate: PEM file of the server's certificate and its chain; None means no TLS.
        private_key: PEM file of its private key.
        client_ca: PEM file of the authorities whose client certificates are accepted; clients must
            then have one.
        keys: file of API keys, as ``delugeserve keys`` writes it; clients must then send one.
        insecure: accept other machines without TLS and authentication.
    """

    certificate: Path | None = None
    private_key: Path | None = None
    client_ca: Path | None = None
    keys: Path | None = None
    insecure: bool = False

    @property
    def authenticates(self) -> bool:
        """Whether the front knows who a client is."""
        return self.keys is not None or self.client_ca is not None
