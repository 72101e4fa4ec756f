"""Logs and OpenTelemetry's traces of what happens to requests.

Nothing of OpenTelemetry is imported unless the program uses it.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from typing import Any

from delugeserve_client.address import Address
from delugeserve_client.core.failures import Failure, Kind
from delugeserve_client.core.observing import Observer

_log = logging.getLogger("delugeserve_client")


class Logging(Observer):
    """Logs servers that get no requests any more, or again.

    Args:
        addresses: the servers.
    """

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses
        self._is_away = False  # the only server

    def failed(self, request: Any, endpoint: int, failure: Failure) -> None:
        """Log a failed attempt, and that the only server is away."""
        address, kind = self._addresses[endpoint], failure.kind
        _log.debug("%s: attempt failed (%s): %s", address, kind.value, failure.message)
        only = len(self._addresses) == 1 and kind in (Kind.GONE, Kind.DRAINING)
        if only and not self._is_away:
            self._is_away = True
            _log.warning("%s is %s", address, kind.value)

    def finished(self, request: Any, failure: Failure | None) -> None:
        """Log that the only server is back."""
        if self._is_away and failure is None:
            self._is_away = False
            _log.warning("%s is back", self._addresses[0])

    def ejected(self, endpoint: int, kind: Kind, seconds: float) -> None:
        """Log an ejection."""
        address = self._addresses[endpoint]
        _log.warning("%s is %s; it gets no requests for %.1f s", address, kind.value, seconds)

    def readmitted(self, endpoint: int) -> None:
        """Log a return."""
        _log.warning("%s is back", self._addresses[endpoint])


class Tracing(Observer):
    """Makes a span of each request, with its attempts as events, and passes the trace on.

    Args:
        addresses: the servers.
        trace: the module ``opentelemetry.trace``.
        propagate: the module ``opentelemetry.propagate``.
    """

    def __init__(self, addresses: Sequence[Address], trace: Any, propagate: Any) -> None:
        self._addresses, self._trace, self._propagate = addresses, trace, propagate
        self._tracer = trace.get_tracer("delugeserve_client")

    def submitted(self, request: Any) -> None:
        """Begin a span below the caller's."""
        form = request.form
        span = self._tracer.start_span(
            f"infer {form.model}",
            kind=self._trace.SpanKind.CLIENT,
            attributes={
                "rpc.system": "kserve",
                "delugeserve.model": form.model,
                "delugeserve.version": form.version,
                "delugeserve.images": form.shape[0],
                "delugeserve.bytes": request.nbytes,
            },
        )
        request.notes = span
        headers = dict(request.headers)
        self._propagate.inject(headers, context=self._trace.set_span_in_context(span))
        request.headers = headers

    def attempt(self, request: Any, endpoint: int, number: int) -> None:
        """Add an attempt."""
        facts = {"server.address": str(self._addresses[endpoint]), "attempt": number}
        request.notes.add_event("attempt", facts)

    def failed(self, request: Any, endpoint: int, failure: Failure) -> None:
        """Add why an attempt failed."""
        address = str(self._addresses[endpoint])
        facts = {"server.address": address, "kind": failure.kind.value, "message": failure.message}
        request.notes.add_event("failed", facts)

    def finished(self, request: Any, failure: Failure | None) -> None:
        """End the span."""
        if failure is not None:
            status = self._trace.Status(self._trace.StatusCode.ERROR, failure.kind.value)
            request.notes.set_status(status)
        request.notes.end()


def observe(addresses: Sequence[Address], observer: Observer | None) -> Sequence[Observer]:
    """Return the observers of a classifier: logs, traces if the program traces, and its own one.

    Args:
        addresses: the servers.
        observer: the program's own; None for none.
    """
    observers: list[Observer] = [Logging(addresses)]
    trace = sys.modules.get("opentelemetry.trace")
    if trace is not None:
        propagate = importlib.import_module("opentelemetry.propagate")
        observers.append(Tracing(addresses, trace, propagate))
    if observer is not None:
        observers.append(observer)
    return observers
