"""Ask a running Envoy through its admin interface, a Unix socket."""

from __future__ import annotations

import http.client
import json
import os
import socket
from pathlib import Path
from typing import Any


class AdminClient:
    """Client of Envoy's admin interface.

    Args:
        path: its Unix socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, path: str, timeout: float = 5.0) -> str:
        """Return the answer to a GET request.

        Raises:
            OSError: Envoy does not answer, or with an error.
        """
        return self._ask("GET", path, timeout)

    def get_json(self, path: str, timeout: float = 5.0) -> Any:
        """Return the answer to a GET request, parsed as JSON.

        Raises:
            OSError: Envoy does not answer, or with an error.
        """
        answer = self._ask("GET", path, timeout)
        try:
            return json.loads(answer)
        except ValueError as error:  # Envoy ended while it answered
            raise OSError(f"GET {path}: {error}") from error

    def post(self, path: str, timeout: float = 5.0) -> str:
        """Return the answer to a POST request without a body.

        Raises:
            OSError: Envoy does not answer, or with an error.
        """
        return self._ask("POST", path, timeout)

    def _ask(self, method: str, path: str, timeout: float) -> str:
        connection = _UnixConnection("localhost", timeout=timeout)
        connection.unix_path = self._path
        try:
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read().decode("utf-8", "replace")
        except http.client.HTTPException as error:
            raise OSError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()
        if response.status >= 400:
            raise OSError(f"{method} {path}: {response.status}")
        return body


class _UnixConnection(http.client.HTTPConnection):
    unix_path = Path()

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        # The path of a Unix socket has at most 107 characters; that of TMPDIR may have more.
        folder = os.open(self.unix_path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock.connect(f"/proc/self/fd/{folder}/{self.unix_path.name}")
        finally:
            os.close(folder)
