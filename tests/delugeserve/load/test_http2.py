"""The frames of a connection, without a socket (RFC 9113)."""

import struct

import hpack
import pytest

from delugeserve.load.senders.http2 import PREFACE, Http2Calls

DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8


def frame(kind, stream, payload=b"", flags=0):
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def split(sent):
    """The frames in what a client sends: type, flags, stream, payload."""
    frames = []
    while sent:
        size = int.from_bytes(sent[:3], "big")
        kind, flags, stream = struct.unpack_from(">BBI", sent, 3)
        frames.append((kind, flags, stream, sent[9 : 9 + size]))
        sent = sent[9 + size :]
    return frames


def settings(**values):
    names = {"most_calls": 3, "window": 4, "frame": 5}
    payload = b"".join(struct.pack(">HI", names[name], value) for name, value in values.items())
    return frame(SETTINGS, 0, payload)


def trailers(stream, status="0", message="", more=()):
    fields = [("grpc-status", status), ("grpc-message", message), *more]
    return frame(HEADERS, stream, hpack.Encoder().encode(fields), flags=0x5)


def reply(stream, body=b"answer"):
    head = frame(HEADERS, stream, hpack.Encoder().encode([(":status", "200")]), flags=0x4)
    message = b"\0" + len(body).to_bytes(4, "big") + body
    return head + frame(DATA, stream, message[:3]) + frame(DATA, stream, message[3:])


@pytest.fixture
def calls():
    calls = Http2Calls([(":method", "POST"), ("x-long", "v" * 200)])
    opening = calls.begin()
    assert opening.startswith(PREFACE)
    assert [kind for kind, *_ in split(opening[len(PREFACE) :])] == [SETTINGS, WINDOW]
    return calls


@pytest.fixture
def answers():
    return []


def note(answers, name):
    return lambda body, error: answers.append((name, body, error))


def test_a_call_and_its_answer_in_pieces(calls, answers):
    calls.receive(settings())
    assert calls.ready
    sent = split(calls.call(b"message", note(answers, "a"), 1.0))
    assert [(kind, flags, stream) for kind, flags, stream, _ in sent] == [(1, 4, 1), (0, 1, 1)]
    assert sent[1][3] == b"message"
    fields = hpack.Decoder().decode(sent[0][3])
    assert [tuple(field) for field in fields] == [(":method", "POST"), ("x-long", "v" * 200)]
    received = reply(1) + trailers(1)
    for byte in received[:-1]:
        calls.receive(bytes([byte]))
    assert answers == []
    calls.receive(received[-1:])
    assert answers == [("a", b"answer", None)]
    assert calls.calls == {}


def test_a_message_waits_for_the_windows(calls, answers):
    calls.receive(settings(window=10))
    first = split(calls.call(b"m" * 25, note(answers, "a"), 1.0))
    assert [(kind, flags, len(data)) for kind, flags, _, data in first] == [
        (HEADERS, 4, len(first[0][3])),
        (DATA, 0, 10),
    ]
    more = split(calls.receive(frame(WINDOW, 1, struct.pack(">I", 8))))
    assert [(flags, len(data)) for _, flags, _, data in more] == [(0, 8)]
    last = split(calls.receive(frame(WINDOW, 1, struct.pack(">I", 100))))
    assert [(flags, len(data)) for _, flags, _, data in last] == [(1, 7)]


def test_a_message_waits_for_the_window_of_the_connection(calls, answers):
    calls.receive(settings(window=200_000, frame=50_000))
    sent = split(calls.call(b"m" * 100_000, note(answers, "a"), 1.0))
    assert [len(data) for kind, _, _, data in sent if kind == DATA] == [50_000, 15_535]
    more = split(calls.receive(frame(WINDOW, 0, struct.pack(">I", 2**20))))
    assert [(flags, len(data)) for _, flags, _, data in more] == [(1, 34_465)]


def test_calls_wait_for_a_place(calls, answers):
    calls.receive(settings(most_calls=16))  # one eighth is left free
    sent = [calls.call(b"m", note(answers, n), 1.0) for n in range(16)]
    assert [bool(data) for data in sent] == [True] * 14 + [False] * 2
    (head, _) = split(calls.receive(reply(1) + trailers(1)))
    assert head[2] == 29
    assert len(calls.calls) == 14


def test_errors(calls, answers):
    calls.receive(settings())
    for name in "abcd":
        calls.call(b"m", note(answers, name), 1.0)
    calls.receive(trailers(1, "8", "queue%20full"))
    calls.receive(frame(RST, 3, struct.pack(">I", 7)))
    calls.receive(frame(GOAWAY, 0, struct.pack(">II", 5, 0)))
    assert answers[0] == ("a", None, "RESOURCE_EXHAUSTED: queue full")
    assert answers[1][2].startswith("UNAVAILABLE: stream reset")
    assert (answers[2][0], answers[2][2][:11]) == ("d", "UNAVAILABLE")  # beyond the last taken
    assert calls.broken
    calls.receive(reply(5) + trailers(5))
    assert answers[3] == ("c", b"answer", None)


def test_deadlines_and_a_lost_connection(calls, answers):
    calls.receive(settings())
    calls.call(b"m", note(answers, "early"), 1.0)
    calls.call(b"m", note(answers, "late"), 5.0)
    ((kind, _, stream, _),) = split(calls.expire(2.0))
    assert (kind, stream) == (RST, 1)
    assert answers[0][2].startswith("DEADLINE_EXCEEDED")
    calls.lose("UNAVAILABLE: gone")
    assert answers[1] == ("late", None, "UNAVAILABLE: gone")


def test_pings_are_answered(calls):
    assert split(calls.receive(frame(PING, 0, b"12345678"))) == [(PING, 1, 0, b"12345678")]
