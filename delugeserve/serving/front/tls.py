"""TLS of the front: certificates that Envoy takes anew without a restart."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from pathlib import Path

from delugeserve.errors import UsageError
from delugeserve.serving.front.clusters import Config, typed
from delugeserve.serving.front.security import Security, check_authorities, check_certificate
from delugeserve.system.files import atomic_write, sha256

_log = logging.getLogger(__name__)

SERVER = "server"
CLIENTS = "clients"
_SECRET = "envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a message's name
_CONTEXT = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
_POLL = 1.0  # seconds


def transport_socket(security: Security, folder: Path, *, http1: bool) -> Config | None:
    """Return the TLS of a listener; None if there is none.

    Args:
        security: the front's security.
        folder: folder of the secrets, ``secret-server.json`` and ``secret-clients.json``.
        http1: offer HTTP/1.1 besides HTTP/2.
    """
    if security.certificate is None:
        return None
    common: Config = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "alpn_protocols": ["h2", "http/1.1"] if http1 else ["h2"],
        "tls_certificate_sds_secret_configs": [_source(SERVER, folder)],
    }
    context: Config = {"common_tls_context": common}
    if security.client_ca is not None:
        common["validation_context_sds_secret_config"] = _source(CLIENTS, folder)
        context["require_client_certificate"] = True
    return {"name": "envoy.transport_sockets.tls", "typed_config": typed(_CONTEXT, context)}


def secret(name: str, security: Security, *, watched: bool = False) -> Config:
    """Return the content of a file of secrets.

    Args:
        name: ``server`` or ``clients``.
        security: the front's security.
        watched: Envoy takes the files anew when something is renamed into their folder, as
            Kubernetes does with a Secret's.
    """
    if name == SERVER:
        assert security.certificate
        assert security.private_key
        fields: Config = {
            "certificate_chain": {"filename": str(security.certificate)},
            "private_key": {"filename": str(security.private_key)},
        }
        folder, kind = security.certificate.parent, "tls_certificate"
    else:
        assert security.client_ca
        fields = {"trusted_ca": {"filename": str(security.client_ca)}}
        folder, kind = security.client_ca.parent, "validation_context"
    if watched:
        fields["watched_directory"] = {"path": str(folder)}
    return {"resources": [typed(_SECRET, {"name": name, kind: fields})]}


class Certificates:
    """Copies certificates to where Envoy reads them, now and whenever they change.

    A certificate that is being replaced may not belong to the private key for a moment. Envoy gets
    only pairs that do.

    Args:
        security: the front's security.
        folder: private folder for the copies and for the files of secrets.
    """

    def __init__(self, security: Security, folder: Path) -> None:
        self._security = security
        self._folder = folder
        self._digests: dict[str, tuple[str, ...]] = {}
        self._refused: dict[str, tuple[str, ...]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        """Check the certificates, and copy them.

        Raises:
            UsageError: one cannot be read, or does not belong to its key.
        """
        for name, paths in self._watched().items():
            self._take(name, paths)

    def watch(self) -> None:
        """Take changed certificates from now on, if there are any."""
        if self._watched():
            self._thread = threading.Thread(target=self._watch, name="certificates", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()
        if self._thread:
            self._thread.join()

    def _watched(self) -> dict[str, tuple[Path, ...]]:
        security = self._security
        found: dict[str, tuple[Path, ...]] = {}
        if security.certificate and security.private_key:
            found[SERVER] = (security.certificate, security.private_key)
        if security.client_ca:
            found[CLIENTS] = (security.client_ca,)
        return found

    def _watch(self) -> None:
        while not self._stop.wait(_POLL):
            for name, paths in self._watched().items():
                try:
                    digests = tuple(sha256(path) for path in paths)
                except OSError:  # it is being replaced
                    continue
                if digests in (self._digests.get(name), self._refused.get(name)):
                    continue
                try:
                    self._take(name, paths)
                    _log.info("The front has taken a new %s.", paths[0])
                except (OSError, UsageError):
                    self._refused[name] = digests
                    _log.warning(
                        "The front keeps its old certificates: %s is not valid, or not that of "
                        "its private key.",
                        paths[0],
                    )

    def _take(self, name: str, paths: tuple[Path, ...]) -> None:
        """Check certificates, and write the file that tells Envoy of them."""
        copies = []
        digests = tuple(sha256(path) for path in paths)
        for path, digest in zip(paths, digests, strict=True):
            copy = self._folder / f"{digest[:16]}.pem"
            copy.touch(mode=0o600)
            shutil.copyfile(path, copy)
            copies.append(copy)
        if name == SERVER:
            check_certificate(copies[0], copies[1])
            copied = Security(certificate=copies[0], private_key=copies[1])
        else:
            check_authorities(copies[0])
            copied = Security(client_ca=copies[0])
        with atomic_write(self._folder / f"secret-{name}.json", mark="next") as beside:
            beside.write_text(json.dumps(secret(name, copied)), encoding="utf-8")
        self._digests[name] = digests


def _source(name: str, folder: Path) -> Config:
    path = str(folder / f"secret-{name}.json")
    return {
        "name": name,
        "sds_config": {"resource_api_version": "V3", "path_config_source": {"path": path}},
    }
