"""Downloading images."""

from __future__ import annotations

import contextlib
import functools
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any

from delugeserve_client.errors import ImageError
from delugeserve_client.proxies import is_loopback
from delugeserve_client.transports.deadlines import read_until

_URL = re.compile(r"https?://", re.IGNORECASE)
_SECONDS = 30.0
_LARGEST = 64 * 2**20  # bytes
_CHUNK = 2**18


def is_url(image: object) -> bool:
    """Return whether an image is given by the URL of a web server."""
    return isinstance(image, str) and bool(_URL.match(image))


def download(url: str, seconds: float = _SECONDS, largest: int = _LARGEST) -> bytes:
    """Return the content of a URL.

    The proxies of the environment are used, as curl does, but never for loopback addresses.
    Redirections lead to other web servers only.

    Args:
        url: begins with ``http://`` or ``https://``.
        seconds: time limit for all of it.
        largest: largest content, in bytes.

    Raises:
        ImageError: it cannot be downloaded, takes too long or is too large.
    """
    until = time.monotonic() + seconds
    shown = _without_password(url)
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "delugeserve-client"})  # noqa: S310 - is_url
        with _opener(url, until).open(request, timeout=seconds) as response:
            content = bytearray()
            while chunk := response.read(_CHUNK):
                content += chunk
                if len(content) > largest:
                    raise ImageError(
                        f"{shown} is larger than {largest // 2**20} MiB.",
                        "Scale it down, or download it and give the path of the file.",
                        source=url,
                    )
            return bytes(content)
    except urllib.error.HTTPError as error:
        with contextlib.suppress(OSError):
            error.close()
        raise ImageError(
            f"{shown} cannot be downloaded: HTTP status {error.code}.",
            "Check the URL, and whether it needs a login.",
            source=url,
        ) from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError) or isinstance(error, TimeoutError):
            reason = f"it took more than {seconds:g} s"
        raise ImageError(
            f"{shown} cannot be downloaded: {reason}.",
            "Check the URL and the network.",
            source=url,
        ) from None


class _HTTP(urllib.request.HTTPHandler):
    def __init__(self, until: float) -> None:
        super().__init__()
        self._until = until

    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(functools.partial(_connection, HTTPConnection, self._until), req)


class _HTTPS(urllib.request.HTTPSHandler):
    def __init__(self, until: float) -> None:
        super().__init__()
        self._until = until

    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(functools.partial(_connection, HTTPSConnection, self._until), req)


def _connection(
    kind: type[HTTPConnection], until: float, *arguments: Any, **options: Any
) -> HTTPConnection:
    connection = kind(*arguments, **options)
    read_until(connection, until)
    return connection


def _opener(url: str, until: float) -> urllib.request.OpenerDirector:
    host = urllib.parse.urlsplit(url).hostname or ""
    proxies: dict[str, str] | None = {} if is_loopback(host) else None
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(proxies),
        _HTTP(until),
        _HTTPS(until),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _without_password(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
