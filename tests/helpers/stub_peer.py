"""A server for tests of ``benchmarks.peers``, with what HTTP servers do and plain ones do not.

As a script it is a peer: it reads the settings of a peer, and starts a process that leaves its
session, as some servers' processes do.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

CLASSES = 4


def answer(image: bytes) -> bytes:
    """The probabilities of an image: its first bytes."""
    return (np.frombuffer(image[:CLASSES], np.uint8) / np.float32(255)).astype(np.float32).tobytes()


def plain(body: bytes) -> list[bytes]:
    """An answer in one piece."""
    return [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body]


class StubServer:
    """An HTTP server in a thread; a context manager.

    Args:
        respond: pieces of an answer, from an image; after an empty piece the connection is closed.
        delay: seconds until an answer.
    """

    def __init__(
        self, respond: Callable[[bytes], list[bytes]] | None = None, delay: float = 0.0
    ) -> None:
        self._respond = respond or (lambda image: plain(answer(image)))
        self._delay = delay
        self._loop = asyncio.new_event_loop()
        self.connections = 0
        self.requests = 0
        self.port = 0

    def __enter__(self) -> StubServer:
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", self.port)
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                image = await _read(reader)
                self.requests += 1
                await asyncio.sleep(self._delay)
                for piece in self._respond(image):
                    if not piece:
                        return
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    return await reader.readexactly(length)


def main() -> None:
    settings = json.loads(Path(os.environ["PEER_SETTINGS"]).read_text())
    stray = subprocess.Popen(
        [sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    server = StubServer()
    server.port = settings["port"]
    with server:
        print("stray", stray.pid, flush=True)  # noqa: T201
        threading.Event().wait()


if __name__ == "__main__":
    main()
