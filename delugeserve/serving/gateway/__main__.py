"""Run the gateway: ``python -m delugeserve.serving.gateway --settings FILE``."""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from delugeserve.errors import DelugeServeError, MissingExtraError, UsageError
from delugeserve.serving.gateway.settings import MOST_HEADER_BYTES, GatewaySettings, read_settings

_DRAIN_SECONDS = 30  # that requests in flight have once the process is asked to stop
# Longer than the hour that Envoy keeps an idle connection: the side that sends must close it.
_KEEP_ALIVE_SECONDS = 2 * 3600


def main() -> int:
    """Run until SIGTERM or SIGINT, finish the requests in flight, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m delugeserve.serving.gateway", description=__doc__
    )
    parser.add_argument("--settings", type=Path, required=True, help="JSON file with the settings")
    arguments = parser.parse_args()
    try:
        settings = read_settings(arguments.settings)
        _log_to_stdout(settings)
        run(settings)
    except DelugeServeError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


def run(settings: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        MissingExtraError: a package of the extra ``server`` is missing.
    """
    try:
        import uvicorn

        from delugeserve.serving.gateway.app import create_app
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "starlette", "server") from None
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once all is answered; by default that would be the end.
        signal.signal(number, lambda *_: None)
    config = uvicorn.Config(
        create_app(settings),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        http=_protocol(),
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    listeners = [_listen(settings.host, settings.port)]
    if settings.metrics_port is not None:
        listeners.append(_listen(settings.metrics_host, settings.metrics_port))
    uvicorn.Server(config).run(sockets=listeners)


def _protocol() -> Any:
    """Return the fastest implementation of HTTP/1.1 that is installed; uvicorn chooses the loop."""
    try:
        from delugeserve.serving.gateway.protocol import LimitedProtocol
    except ModuleNotFoundError:
        return "h11"
    return LimitedProtocol


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UsageError(
            f"The gateway cannot listen on {host}, port {port}: {error.strerror}.",
            "Use another port, or an address of this machine.",
        ) from None


def _log_to_stdout(settings: GatewaySettings) -> None:
    logging.basicConfig(
        stream=sys.stdout, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # warns of each damaged body
    access = logging.getLogger("delugeserve.access")
    access.setLevel(logging.INFO if settings.access_log else logging.CRITICAL)
    access.propagate = False
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    access.addHandler(handler)


if __name__ == "__main__":
    sys.exit(main())
