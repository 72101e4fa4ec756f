"""Errors as a client sees them: an HTTP status, what is wrong, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

# What must not reach a client: absolute paths, and everything from a traceback on.
_PATH = re.compile(r"(?<![\w.:/])/(?:[\w.+-]+/)+[\w.+-]*|/(?:home|root|tmp|usr|work|var|opt)\S*")
_LONGEST = 300  # characters of a server's message
_OF_ENSEMBLE = re.compile(r"^in ensemble '[^']*', ")
_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?]) (?=[A-Z])")
_TOO_MANY_PIXELS = re.compile(r"more than [\d,]+ pixels")


class RequestError(Exception):
    """A request that gets an error for an answer.

    Args:
        status: the HTTP status.
        problem: what is wrong, with its full stop.
        remedy: what to do about it, with its full stop.
        retry_after: seconds after which the same request may succeed; None if it never will.
        facts: more fields of the answer.
    """

    def __init__(
        self,
        status: int,
        problem: str,
        remedy: str,
        *,
        retry_after: int | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(status, problem, remedy)
        self.status, self.problem, self.remedy = status, problem, remedy
        self.retry_after, self.facts = retry_after, dict(facts or {})

    def body(self) -> dict[str, Any]:
        """Return the answer's JSON object."""
        return {"error": self.problem, "remedy": self.remedy, **self.facts}

    def response(self) -> JSONResponse:
        """Return the answer."""
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        return JSONResponse(self.body(), self.status, headers)


def from_server(status: str, message: str, model: str, seconds: float) -> RequestError:
    """Translate an error that the inference server answered with.

    Args:
        status: gRPC's name of the status, such as ``UNAVAILABLE``.
        message: the server's message.
        model: the model that was asked.
        seconds: the time that the server had.
    """
    words = message.lower()
    if status == "DEADLINE_EXCEEDED":
        return RequestError(
            504,
            f"The model '{model}' did not answer within {seconds:g} s.",
            "Send the request again, or allow more time with the parameter 'timeout'.",
        )
    if status == "RESOURCE_EXHAUSTED" or "queue size" in words or "overflow" in words:
        return RequestError(
            429,
            f"The model '{model}' has too many requests waiting.",
            "Wait as long as the header Retry-After says, then send the request again.",
            retry_after=1,
        )
    if status in ("UNAVAILABLE", "CANCELLED", "NOT_FOUND"):
        return unavailable()
    if status == "INVALID_ARGUMENT":
        return from_decoder(_OF_ENSEMBLE.sub("", message))
    return RequestError(
        502,
        f"The model '{model}' could not process the request.",
        "Send the request again. If it fails again, tell whoever runs this server.",
    )


def from_decoder(message: str) -> RequestError:
    """Translate what the decoder says of an image: what is wrong, and what to do about it."""
    text = presentable(message)
    problem, *rest = _BETWEEN_SENTENCES.split(text, maxsplit=1)
    remedy = rest[0] if rest else "Send a JPEG, PNG or WebP file that other programs can open."
    return RequestError(413 if _TOO_MANY_PIXELS.search(problem) else 400, problem, remedy)


def unavailable() -> RequestError:
    """Return the error for a time at which no server takes requests."""
    return RequestError(
        503,
        "The server does not take requests at the moment: it is starting, restarting or stopping.",
        "Wait as long as the header Retry-After says, then send the request again.",
        retry_after=2,
    )


def presentable(message: str) -> str:
    """Return a server's message as one sentence, without tracebacks and paths."""
    text = " ".join(message.partition("Traceback")[0].split())
    text = _PATH.sub("(path)", text)[:_LONGEST].rstrip()
    if not text:
        return "The server refused the request."
    return text if text.endswith((".", "!", "?")) else f"{text}."
