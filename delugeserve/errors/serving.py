"""Errors of servers."""

from __future__ import annotations

from collections.abc import Mapping

from delugeserve.errors.base import Failure, UsageError


class PortError(UsageError):
    """A server cannot listen on a port.

    Args:
        problem: one sentence.
        port: the port.
        endpoint: what it was for: ``grpc``, ``http`` or ``metrics``.
    """

    def __init__(self, problem: str, port: int, endpoint: str) -> None:
        self.port, self.endpoint = port, endpoint
        super().__init__(problem, f"Use another with --{endpoint}-port; 0 picks a free one.")


class ServerError(Failure):
    """The inference server did not start, or died.

    Args:
        problem: one sentence.
        remedy: one sentence.
        log_tail: the last lines of the server's log.
        reasons: for each model that failed, why.
    """

    def __init__(
        self,
        problem: str,
        remedy: str,
        *,
        log_tail: str = "",
        reasons: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(problem, remedy)
        self.log_tail, self.reasons = log_tail, dict(reasons or {})
