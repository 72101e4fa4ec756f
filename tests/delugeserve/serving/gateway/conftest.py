"""The gateway in this process, in front of a stand-in for Triton."""

from __future__ import annotations

import asyncio
import dataclasses
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the gateway needs the extra 'server'")

from asgi import FakeTriton, Response, call, serving

from delugeserve.serving.gateway.app import create_app
from delugeserve.serving.gateway.settings import GatewaySettings
from delugeserve.serving.gateway.upstream import Upstream


class Gateway:
    """Sends requests to the application, which is made anew when its settings change."""

    def __init__(self, loop: asyncio.AbstractEventLoop, address: str) -> None:
        self.loop, self.upstream = loop, Upstream(address)
        self.settings = GatewaySettings(address, 0)
        self.limit()

    def limit(self, **limits: Any) -> None:
        self.set(limits=dataclasses.replace(self.settings.limits, **limits))

    def set(self, **changes: Any) -> None:
        self.settings = dataclasses.replace(self.settings, **changes)
        self.app = create_app(self.settings, self.upstream)

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def get(self, target: str, **options: Any) -> Response:
        return self.run(call(self.app, "GET", target, **options))

    def post(self, target: str, body: bytes = b"", **options: Any) -> Response:
        return self.run(call(self.app, "POST", target, **{"chunks": [body], **options}))


@pytest.fixture
def triton() -> FakeTriton:
    return FakeTriton()


@pytest.fixture
def gateway(triton: FakeTriton) -> Iterator[Gateway]:
    loop = asyncio.new_event_loop()
    with serving(triton) as address:
        gateway = Gateway(loop, address)
        yield gateway
        gateway.run(gateway.upstream.close())
    loop.close()


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """Returns an image of one colour, encoded."""

    def encode(colour: str = "red", size: tuple[int, int] = (48, 32), kind: str = "PNG") -> bytes:
        file = io.BytesIO()
        Image.new("RGB", size, colour).save(file, kind)
        return file.getvalue()

    return encode
