"""Whether the server can answer: a real inference of every model."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from delugeserve.serving.gateway.calls import Call
from delugeserve.serving.gateway.errors import RequestError, unavailable
from delugeserve.serving.gateway.upstream import Upstream

_KEPT = 1.0  # seconds for which a result is believed
_SECONDS = 5.0  # that a model has for its inference


@dataclass(frozen=True)
class Health:
    """The result of an inference of every model.

    Attributes:
        ready: whether there is a model, and all of them answered.
        models: by name, the version that answered, or what is wrong.
    """

    ready: bool
    models: dict[str, dict[str, Any]]
    problem: str = ""


class Readiness:
    """Asks every model to classify an image, at most once a second.

    Args:
        upstream: the server.
        stopping: returns whether the server is about to end.
    """

    def __init__(self, upstream: Upstream, stopping: Callable[[], bool]) -> None:
        self._upstream, self._stopping = upstream, stopping
        self._image = _probe_image()
        self._checking = asyncio.Lock()
        self._checked_at = float("-inf")
        self._health = Health(False, {})

    async def check(self) -> Health:
        """Return whether every model answers."""
        async with self._checking:
            if time.monotonic() - self._checked_at > _KEPT:
                self._health = await self._check()
                self._checked_at = time.monotonic()
        return self._health

    async def _check(self) -> Health:
        if self._stopping():
            return Health(False, {}, "The server is stopping.")
        try:
            names = list(await self._upstream.endpoints(fresh=True))
        except RequestError as error:
            return Health(False, {}, error.problem)
        if not names:
            return Health(False, {}, unavailable().problem)
        results = await asyncio.gather(*(self._ask(name) for name in names))
        return Health(
            all(ok for ok, _ in results), dict(zip(names, (r for _, r in results), strict=True))
        )

    async def _ask(self, name: str) -> tuple[bool, dict[str, Any]]:
        try:
            # By way of the proxy, as all other requests go.
            call = Call(_SECONDS, direct=False)
            answer = await self._upstream.classify(name, self._image, 1, call)
        except RequestError as error:
            return False, {"error": error.problem}
        return True, {"version": answer.version}


def _probe_image() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (120, 130, 140)).save(file, "JPEG")
    return file.getvalue()
