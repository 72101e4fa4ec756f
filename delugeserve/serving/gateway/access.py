"""One line of JSON for each request, and its id."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from delugeserve.serving.gateway.metrics import Metrics

_log = logging.getLogger(__name__)
#: Loggers of requests; the message is a JSON object.
access_log = logging.getLogger("delugeserve.access")

CLIENT_GONE = 499  # in the log alone, as nginx has it

_REQUEST_ID = re.compile(r"[\w.:+/=-]{1,128}", re.ASCII)
# W3C Trace Context, 3.2: version, trace id, parent id, flags.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(r"[\x20-\x7e]{1,512}")


class AccessLog:
    """ASGI middleware: gives each request an id and logs it, with the traceback if it failed.

    What the application knows of a request, it writes into ``scope["state"]["log"]``.

    Args:
        app: the application.
        metrics: counts the requests.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
        facts: dict[str, Any] = {}
        scope.setdefault("state", {})
        scope["state"].update(log=facts, request_id=request_id)
        status, sent, started = 0, 0, time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                added = MutableHeaders(scope=message)
                added["x-request-id"] = request_id
                added["x-content-type-options"] = "nosniff"
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            _log.exception("request %s failed", request_id)
        finally:
            seconds = time.perf_counter() - started
            self._metrics.request(scope["path"], status or CLIENT_GONE, seconds)
            self._write(scope, headers, facts, status or CLIENT_GONE, sent, seconds)

    @staticmethod
    def _write(
        scope: Scope,
        headers: Headers,
        facts: MutableMapping[str, Any],
        status: int,
        sent: int,
        seconds: float,
    ) -> None:
        if not access_log.isEnabledFor(logging.INFO):
            return
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "request_id": scope["state"]["request_id"],
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "seconds": round(seconds, 6),
            "bytes_sent": sent,
            **{name: headers[key] for name, key in _LOGGED if key in headers},
            **trace_headers(headers),
            **facts,
        }
        access_log.info("%s", json.dumps(line, ensure_ascii=True))


_LOGGED = (("client", "x-client-id"), ("user_agent", "user-agent"))


def trace_headers(headers: Headers) -> dict[str, str]:
    """Return a request's trace context, if it has a valid one.

    Returns:
        ``traceparent``, and ``tracestate`` if there is one.
    """
    parent = headers.get("traceparent", "")
    if not _TRACEPARENT.fullmatch(parent):
        return {}
    state = headers.get("tracestate", "")
    return {
        "traceparent": parent,
        **({"tracestate": state} if _TRACESTATE.fullmatch(state) else {}),
    }
