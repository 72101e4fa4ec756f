"""The frames of a connection, without a socket (RFC 9113)."""

import struct

import hpack

from delugeserve.load.senders.http2 import PREFACE, Call, Http2Calls

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


class Client:
    """A connection of calls, and what became of them."""

    def __init__(self, **limits):
        self.calls = Http2Calls([(":method", "POST"), ("x-long", "v" * 200)])
        self.calls.begin()
        self.opening = self.calls.data_to_send()
        self.answers = []
        self.receive(settings(**limits))

    def call(self, name, message=b"m", deadline=1.0, then=lambda: None):
        """Make a call, and return the frames sent."""

        def done(body, error):
            self.answers.append((name, body, error))
            then()

        self.calls.call(Call(message, done, deadline))
        return self.sent()

    def receive(self, *data):
        self.calls.receive(b"".join(data))
        return self.sent()

    def sent(self):
        return split(self.calls.data_to_send())


def kinds(frames):
    return [(kind, stream) for kind, _, stream, _ in frames]


def test_the_opening():
    client = Client()
    assert client.opening.startswith(PREFACE)
    assert kinds(split(client.opening[len(PREFACE) :])) == [(SETTINGS, 0), (WINDOW, 0)]
    assert client.calls.ready
    assert client.sent() == []  # nothing twice


def test_a_call_and_its_answer_in_pieces():
    client = Client()
    sent = client.call("a", b"message")
    assert [(kind, flags, stream) for kind, flags, stream, _ in sent] == [(1, 4, 1), (0, 1, 1)]
    assert sent[1][3] == b"message"
    fields = hpack.Decoder().decode(sent[0][3])
    assert [tuple(field) for field in fields] == [(":method", "POST"), ("x-long", "v" * 200)]
    received = reply(1) + trailers(1)
    for byte in received[:-1]:
        client.receive(bytes([byte]))
    assert client.answers == []
    client.receive(received[-1:])
    assert client.answers == [("a", b"answer", None)]
    assert client.calls.calls == {}


def test_a_message_waits_for_the_windows():
    client = Client(window=10)
    first = client.call("a", b"m" * 25)
    assert [(kind, flags, len(data)) for kind, flags, _, data in first] == [
        (HEADERS, 4, len(first[0][3])),
        (DATA, 0, 10),
    ]
    more = client.receive(frame(WINDOW, 1, struct.pack(">I", 8)))
    assert [(flags, len(data)) for _, flags, _, data in more] == [(0, 8)]
    last = client.receive(frame(WINDOW, 1, struct.pack(">I", 100)))
    assert [(flags, len(data)) for _, flags, _, data in last] == [(1, 7)]


def test_a_message_waits_for_the_window_of_the_connection():
    client = Client(window=200_000, frame=50_000)
    sent = client.call("a", b"m" * 100_000)
    assert [len(data) for kind, _, _, data in sent if kind == DATA] == [50_000, 15_535]
    more = client.receive(frame(WINDOW, 0, struct.pack(">I", 2**20)))
    assert [(flags, len(data)) for _, flags, _, data in more] == [(1, 34_465)]


def test_frames_leave_in_the_order_in_which_they_were_made():
    """A call made by a callback begins before a window that comes with the answer lets more out."""
    client = Client(window=200_000)
    client.call("a", then=lambda: client.calls.call(Call(b"m" * 100_000, lambda *_: None, 1.0)))
    more = frame(WINDOW, 0, struct.pack(">I", 2**20))
    frames = client.receive(reply(1), trailers(1), more)
    assert kinds(frames) == [(HEADERS, 3)] + [(DATA, 3)] * (len(frames) - 1)
    assert sum(len(data) for *_, data in frames[1:]) == 100_000


def test_calls_that_wait_come_before_those_of_callbacks():
    client = Client(most_calls=8)  # one eighth is left free

    def repeat(name):
        client.call(name, then=lambda: repeat(name))

    for name in range(9):
        repeat(name)
    assert len(client.calls.calls) == 7
    for _ in range(90):
        oldest = next(iter(client.calls.calls))
        client.receive(reply(oldest), trailers(oldest))
    names = [name for name, *_ in client.answers]
    assert [names.count(name) for name in range(9)] == [10] * 9


def test_errors():
    client = Client()
    client.call("a")
    client.call("b")
    client.receive(trailers(1, "8", "queue%20full"))
    client.receive(frame(RST, 3, struct.pack(">I", 2)))
    assert client.answers[0] == ("a", None, "RESOURCE_EXHAUSTED: queue full")
    assert client.answers[1][2].startswith("UNAVAILABLE: stream reset")


def test_a_refused_call_is_sent_again():
    client = Client()
    client.call("a")
    client.call("b")
    refused = struct.pack(">I", 7)
    assert client.receive(frame(RST, 1, refused)) == []  # there is no place for it yet
    assert kinds(client.receive(reply(3), trailers(3))) == [(HEADERS, 5), (DATA, 5)]
    assert kinds(client.receive(frame(RST, 5, refused))) == [(HEADERS, 7), (DATA, 7)]
    client.receive(reply(7), trailers(7))
    assert client.answers == [("b", b"answer", None), ("a", b"answer", None)]


def test_a_server_that_closes_the_connection():
    client = Client(most_calls=4)
    for name in "abcd":
        client.call(name, name.encode())
    client.receive(frame(GOAWAY, 0, struct.pack(">II", 3, 0)))
    assert client.calls.broken
    client.receive(reply(1), trailers(1))
    client.receive(reply(3), trailers(3))
    assert client.answers == [("a", b"answer", None), ("b", b"answer", None)]
    assert client.call("e") == []
    left = [call.message for call in client.calls.take_queue()]
    assert left == [b"c", b"d", b"m"]  # nothing is begun any more: it is for another connection


def test_deadlines_and_a_lost_connection():
    client = Client(most_calls=3)
    for name, deadline in (("first", 1.0), ("late", 5.0), ("waits", 1.5), ("next", 5.0)):
        client.call(name, deadline=deadline)
    client.calls.expire(2.0)
    assert kinds(client.sent()) == [(RST, 1), (HEADERS, 5), (DATA, 5)]
    assert [(name, error[:8]) for name, _, error in client.answers] == [
        ("first", "DEADLINE"),
        ("waits", "DEADLINE"),
    ]
    client.calls.lose("UNAVAILABLE: gone")
    assert client.answers[2:] == [(name, None, "UNAVAILABLE: gone") for name in ("late", "next")]


def test_pings_are_answered():
    ((kind, flags, _, data),) = Client().receive(frame(PING, 0, b"12345678"))
    assert (kind, flags, data) == (PING, 1, b"12345678")
