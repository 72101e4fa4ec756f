"""What a load test needs from a sender."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from delugeserve.load.target import Target

Done = Callable[[bytes | None, str | None], None]
"""Called once for each request, from any thread: with the answer's probabilities as the bytes of
float32 ``[N, classes]``, or with None and what went wrong. It must not raise."""


def deliver(done: Done, read: Callable[..., bytes], *reply: bytes) -> None:
    """Read a reply and hand over its probabilities; a reply of another form is a failed request.

    Args:
        done: receives the answer.
        read: returns the probabilities of a reply.
        reply: its arguments.
    """
    try:
        answer = read(*reply)
    except Exception as error:
        done(None, f"INTERNAL: {type(error).__name__}: {error}")
    else:
        done(answer, None)


def send_once(sender: Sender, sample_ids: Sequence[int], done: Done) -> None:
    """Send a request whose ``done`` is called exactly once, whatever the sender does.

    Args:
        sender: sends the request. If it raises an exception, the request has failed.
        sample_ids: see :meth:`Sender.send`.
        done: see :meth:`Sender.send`.
    """
    called = False

    def once(answer: bytes | None, error: str | None) -> None:
        nonlocal called
        if not called:
            called = True
            done(answer, error)

    try:
        sender.send(sample_ids, once)
    except Exception as error:
        if called:  # it is an error of the callback
            raise
        once(None, f"{type(error).__name__}: {error}")


class Sender(Protocol):
    """Sends requests to a server. A test opens one in a process of its own."""

    def send(self, sample_ids: Sequence[int], done: Done) -> None:
        """Send one request and return at once.

        Args:
            sample_ids: the images of the request, as indices into the target's.
            done: receives the answer.
        """

    def close(self) -> None:
        """Close the connections. No request is in flight."""


OpenSender = Callable[[Target], Sender]
"""Opens a sender. It is called in another process, so it must be picklable."""
