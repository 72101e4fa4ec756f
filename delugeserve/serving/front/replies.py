"""The front's own error messages, without details of its insides."""

from __future__ import annotations

from delugeserve.serving.front.clusters import Config
from delugeserve.serving.front.settings import Limits

# gRPC's status codes.
_DEADLINE_EXCEEDED = 4
_RESOURCE_EXHAUSTED = 8
_UNAVAILABLE = 14


def local_replies(limits: Limits, *, grpc: bool) -> Config:
    """Return how the front words the errors that it answers itself.

    Args:
        limits: limits for requests, which the messages name.
        grpc: for gRPC, as a status; otherwise as JSON ``{"error": ...}``.
    """
    messages = {
        408: (
            f"The request did not arrive within {limits.receive_seconds:g} s.",
            _DEADLINE_EXCEEDED,
        ),
        413: (
            f"The request is larger than {limits.request_bytes} bytes, or its JSON than "
            f"{limits.json_bytes}: send tensors as binary data.",
            _RESOURCE_EXHAUSTED,
        ),
        429: ("Too many requests. Send fewer per second.", _RESOURCE_EXHAUSTED),
        431: ("The headers of the request are too large.", _RESOURCE_EXHAUSTED),
        503: ("No server is ready. Try again.", _UNAVAILABLE),
        504: (f"No answer within {limits.answer_seconds:g} s.", _DEADLINE_EXCEEDED),
    }
    overflow = "As many requests as the servers hold are in flight. Try again."
    text = "%LOCAL_REPLY_BODY%"
    return {
        "mappers": [
            # Envoy's flag for a full circuit breaker. The servers are not gone.
            _mapper(503, overflow, _RESOURCE_EXHAUSTED if grpc else None, flag="UO"),
            *(
                _mapper(status, message, code if grpc else None)
                for status, (message, code) in messages.items()
            ),
        ],
        "body_format": {"text_format_source": {"inline_string": text}}
        if grpc
        else {"json_format": {"error": text}},
    }


def _mapper(status: int, message: str, grpc_status: int | None, flag: str = "") -> Config:
    mapper: Config = {
        "filter": {"response_flag_filter": {"flags": [flag]}}
        if flag
        else {
            "status_code_filter": {
                "comparison": {"op": "EQ", "value": {"default_value": status, "runtime_key": "-"}}
            }
        },
        "body": {"inline_string": message},
    }
    headers = {} if grpc_status is None else {"grpc-status": str(grpc_status)}
    if grpc_status is None and status in (429, 503):
        headers["retry-after"] = "1"
    if headers:
        mapper["headers_to_add"] = [
            {
                "header": {"key": name, "value": value},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
            for name, value in headers.items()
        ]
    return mapper
