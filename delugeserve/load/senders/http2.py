"""As much of HTTP/2 (RFC 9113) as unary gRPC calls need, without any input or output.

gRPC's own Python client takes about 130 microseconds of CPU time per call and wakes several
threads, which the server on the same machine then lacks. A load test sends the same few messages
again and again, so its frames can be joined from bytes that were built before, and most answers
can be compared without being decoded.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

from delugeserve.system.imports import require

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_DATA, _HEADERS, _RST_STREAM, _SETTINGS = 0x0, 0x1, 0x3, 0x4
_PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0x6, 0x7, 0x8, 0x9
_ACK, _END_STREAM, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _MAX_CONCURRENT_STREAMS = 0x1, 0x2, 0x3
_INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 0x4, 0x5
_REFUSED, _CANCEL = 0x7, 0x8  # codes of a reset
_LARGEST_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65_535
_DEFAULT_FRAME = 16_384
# Bytes received after which the server may send as many again.
_WINDOW_STEP = 2**28

_head = struct.Struct(">HBBBI").pack  # length (in two parts), type, flags, stream


@dataclass
class Call:
    """One call.

    Attributes:
        message: the request, with gRPC's prefix of five bytes.
        done: called with the reply's message, or with None and what went wrong.
        deadline: when it counts as failed, in the clock of the caller.
        window: bytes that may still be sent on the stream.
        unsent: what waits for the window.
        body: what was received of the reply.
    """

    message: bytes
    done: Callable[[bytes | None, str | None], None]
    deadline: float
    window: int = 0
    unsent: bytes = b""
    body: list[bytes] = field(default_factory=list)


class Http2Calls:
    """The client's end of a connection that carries unary gRPC calls.

    What is to be sent is collected in the order in which the server must receive it;
    :meth:`data_to_send` returns it. The methods must not be called by two threads at once, but a
    call's ``done`` may make further calls.

    Args:
        headers: the request's headers, the same for every call.

    Attributes:
        calls: the calls in flight, by stream.
        broken: why no more calls can be made; None as long as they can.
        ready: whether the server has said how much it takes; no call is to be made before.
    """

    def __init__(self, headers: Sequence[tuple[str, str]]) -> None:
        hpack = require("hpack", "benchmark")
        self._decoder = hpack.Decoder()
        # Literal fields that enter no table: the same bytes for every call.
        self._headers = b"".join(_literal(name, value) for name, value in headers)
        self._stream = -1
        self._window, self._initial_window = _DEFAULT_WINDOW, _DEFAULT_WINDOW
        self._largest_frame, self._most_calls = _DEFAULT_FRAME, _LARGEST_WINDOW
        self._received, self._credit = b"", 0
        self._block: tuple[int, int, bytes] | None = None  # headers that are to be continued
        self._statuses: dict[bytes, str | None] = {}
        self._queue: deque[Call] = deque()  # more calls than the server takes at once
        self._out: list[bytes] = []
        self.calls: dict[int, Call] = {}
        self.broken: str | None = None
        self.ready = False

    def begin(self) -> None:
        """Open the connection."""
        settings = (
            # Without a table, a header block means the same in every reply.
            (_HEADER_TABLE_SIZE, 0),
            (_ENABLE_PUSH, 0),
            (_INITIAL_WINDOW_SIZE, _LARGEST_WINDOW),
        )
        payload = b"".join(struct.pack(">HI", *setting) for setting in settings)
        more = struct.pack(">I", _LARGEST_WINDOW - _DEFAULT_WINDOW)
        self._out += (PREFACE, _frame(_SETTINGS, 0, 0, payload), _frame(_WINDOW_UPDATE, 0, 0, more))

    def data_to_send(self) -> bytes:
        """Return what the server is to receive next, once."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def call(self, call: Call) -> None:
        """Send a call; put it into the queue where the server takes no more, now or at all."""
        if self._queue or self.broken is not None or len(self.calls) >= self._most_calls:
            self._queue.append(call)
        else:
            self._open(call)

    def take_queue(self) -> list[Call]:
        """Remove and return the calls that are not sent, oldest first, for another connection."""
        queued = list(self._queue)
        self._queue.clear()
        return queued

    def _open(self, call: Call) -> None:
        self._stream = stream = self._stream + 2
        self.calls[stream] = call
        headers, message = self._headers, call.message
        length, size = len(headers), len(message)
        head = _head(length >> 8, length & 0xFF, _HEADERS, _END_HEADERS, stream)
        window = self._initial_window
        if size <= self._largest_frame and size <= self._window and size <= window:
            self._window -= size
            call.window, call.unsent = window - size, b""
            frame = _head(size >> 8, size & 0xFF, _DATA, _END_STREAM, stream)
            self._out += (head, headers, frame, message)
            return
        call.window, call.unsent = window, message
        self._out += (head, headers)
        self._continue(stream, call)

    def _continue(self, stream: int, call: Call) -> None:
        """Send as much of a call's message as the windows let through."""
        message = call.unsent
        while message and min(self._window, call.window) > 0:
            size = min(len(message), self._largest_frame, self._window, call.window)
            part, message = message[:size], message[size:]
            self._window -= size
            call.window -= size
            self._out.append(_frame(_DATA, 0 if message else _END_STREAM, stream, part))
        call.unsent = message

    def receive(self, data: bytes) -> None:
        """Take bytes from the server, and finish the calls that they answer.

        Args:
            data: the next bytes; any number.
        """
        data = self._received + data if self._received else data
        position, length = 0, len(data)
        while length - position >= 9:
            size = int.from_bytes(data[position : position + 3], "big")
            end = position + 9 + size
            if end > length:
                break
            kind, flags = data[position + 3], data[position + 4]
            stream = int.from_bytes(data[position + 5 : position + 9], "big") & _LARGEST_WINDOW
            self._take(kind, flags, stream, data[position + 9 : end])
            position = end
        self._received = data[position:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._take_data(flags, stream, payload)
        elif kind == _HEADERS:
            if flags & _PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            if flags & _PRIORITY:
                payload = payload[5:]
            if flags & _END_HEADERS:
                self._take_headers(flags, stream, payload)
            else:
                self._block = (flags, stream, payload)
        elif kind == _CONTINUATION and self._block is not None:
            first, stream, begun = self._block
            if flags & _END_HEADERS:
                self._block = None
                self._take_headers(first, stream, begun + payload)
            else:
                self._block = (first, stream, begun + payload)
        elif kind == _WINDOW_UPDATE:
            self._take_window(stream, int.from_bytes(payload, "big") & _LARGEST_WINDOW)
        elif kind == _SETTINGS and not flags & _ACK:
            self._take_settings(payload)
        elif kind == _PING and not flags & _ACK:
            self._out.append(_frame(_PING, _ACK, 0, payload))
        elif kind == _RST_STREAM:
            self._take_reset(stream, int.from_bytes(payload, "big"))
        elif kind == _GOAWAY:
            self._take_goaway(payload)

    def _take_data(self, flags: int, stream: int, payload: bytes) -> None:
        self._credit += len(payload)
        if self._credit >= _WINDOW_STEP:
            self._out.append(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._credit)))
            self._credit = 0
        if flags & _PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        call = self.calls.get(stream)
        if call is not None:
            call.body.append(payload)
            if flags & _END_STREAM:  # gRPC ends with trailers
                self._finish(stream, "INTERNAL: the answer has no status")

    def _take_headers(self, flags: int, stream: int, block: bytes) -> None:
        # Headers of an answer that goes on are not read: what counts is in the trailers.
        if flags & _END_STREAM:
            self._finish(stream, self._status(block))

    def _status(self, block: bytes) -> str | None:
        """Return what trailers say is wrong, or None."""
        try:
            return self._statuses[block]
        except KeyError:
            pass
        fields = {_text(name): _text(value) for name, value in self._decoder.decode(block)}
        code, message = fields.get("grpc-status"), fields.get("grpc-message", "")
        if code is None:
            status: str | None = f"UNAVAILABLE: HTTP status {fields.get(':status')}"
        else:
            status = None if code == "0" else f"{_CODES.get(code, code)}: {unquote(message)}"
        if len(self._statuses) < 1000:
            self._statuses[block] = status
        return status

    def _finish(self, stream: int, error: str | None) -> None:
        call = self.calls.pop(stream, None)
        if call is None:
            return
        if self._queue:  # before the callback, which may make a call: those that wait come first
            self._send_queued()
        if error is None:
            body = call.body[0] if len(call.body) == 1 else b"".join(call.body)
            if len(body) >= 5 and body[0] == 0:
                call.done(body[5:], None)
            else:
                call.done(None, "INTERNAL: the answer has no message")
        else:
            call.done(None, error)

    def _send_queued(self) -> None:
        while self._queue and len(self.calls) < self._most_calls and self.broken is None:
            self._open(self._queue.popleft())

    def _return(self, streams: Iterable[int]) -> None:
        """Put calls back into the queue that the server has not begun (RFC 9113, section 8.7)."""
        calls = [self.calls.pop(stream) for stream in streams if stream in self.calls]
        for call in calls:
            call.body.clear()
        self._queue.extendleft(reversed(calls))

    def _take_window(self, stream: int, more: int) -> None:
        if stream:
            call = self.calls.get(stream)
            if call is None:
                return
            call.window += more
            if call.unsent:
                self._continue(stream, call)
            return
        self._window += more
        for stream, call in self.calls.items():
            if call.unsent:
                self._continue(stream, call)

    def _take_settings(self, payload: bytes) -> None:
        self.ready = True
        self._out.append(_frame(_SETTINGS, _ACK, 0, b""))
        for start in range(0, len(payload) - 5, 6):
            name, value = struct.unpack_from(">HI", payload, start)
            if name == _MAX_CONCURRENT_STREAMS:
                # gRPC's server counts a call for a moment after its end, and refuses one too many.
                self._most_calls = max(1, value - max(1, value // 8))
            elif name == _MAX_FRAME_SIZE:
                self._largest_frame = value
            elif name == _INITIAL_WINDOW_SIZE:
                more, self._initial_window = value - self._initial_window, value
                for stream, call in self.calls.items():
                    call.window += more
                    if call.unsent:
                        self._continue(stream, call)
        self._send_queued()

    def _take_reset(self, stream: int, code: int) -> None:
        if code != _REFUSED:
            self._finish(stream, f"UNAVAILABLE: stream reset (code {code})")
            return
        self._return((stream,))
        if not self.calls:  # else it is sent when another call ends
            self._send_queued()

    def _take_goaway(self, payload: bytes) -> None:
        """Leave the calls that the server will not answer to another connection."""
        last = int.from_bytes(payload[:4], "big") & _LARGEST_WINDOW
        self.broken = "UNAVAILABLE: the server closes the connection"
        self._return([stream for stream in self.calls if stream > last])

    def lose(self, error: str) -> None:
        """Fail the calls in flight: the connection is gone. Those in the queue stay there."""
        self.broken = error
        lost, self.calls = self.calls, {}
        for call in lost.values():
            call.done(None, error)

    def expire(self, now: float) -> None:
        """Fail the calls whose deadline has passed, and tell the server.

        Args:
            now: the time, in the clock of the deadlines.
        """
        streams = [stream for stream, call in self.calls.items() if call.deadline <= now]
        cancelled = struct.pack(">I", _CANCEL)
        self._out += (_frame(_RST_STREAM, 0, stream, cancelled) for stream in streams)
        late = [(self.calls.pop(stream), "answered") for stream in streams]
        while self._queue and self._queue[0].deadline <= now:
            late.append((self._queue.popleft(), "sent"))
        self._send_queued()
        for call, what in late:
            call.done(None, f"DEADLINE_EXCEEDED: not {what} in time")


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: str, value: str) -> bytes:
    """Encode a header as a literal field without indexing (RFC 7541, section 6.2.2)."""
    parts = [b"\0"]
    for text in (name.encode("ascii"), value.encode("utf-8")):
        parts += [_integer(len(text), 7), text]
    return b"".join(parts)


def _integer(value: int, bits: int) -> bytes:
    """Encode a whole number with a prefix of some bits (RFC 7541, section 5.1)."""
    largest = (1 << bits) - 1
    if value < largest:
        return bytes((value,))
    encoded, value = bytearray((largest,)), value - largest
    while value >= 128:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


_CODES = {
    "1": "CANCELLED",
    "2": "UNKNOWN",
    "3": "INVALID_ARGUMENT",
    "4": "DEADLINE_EXCEEDED",
    "5": "NOT_FOUND",
    "7": "PERMISSION_DENIED",
    "8": "RESOURCE_EXHAUSTED",
    "12": "UNIMPLEMENTED",
    "13": "INTERNAL",
    "14": "UNAVAILABLE",
    "16": "UNAUTHENTICATED",
}
