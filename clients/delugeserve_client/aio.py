"""The classifier for asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
import numpy.typing as npt

from delugeserve_client.address import parse_address
from delugeserve_client.batching import (
    IN_FLIGHT,
    Chunk,
    OnError,
    check_arguments,
    check_batch,
    chunks,
    is_one_image,
    slices,
)
from delugeserve_client.classifier import Decode, SharedMemory
from delugeserve_client.core.retry import DEFAULT_RETRY, RetryPolicy
from delugeserve_client.credentials import Credentials
from delugeserve_client.diagnosis import choose_model, diagnose, explain, not_served
from delugeserve_client.errors import AddressError, ModelUnavailable, ServerUnavailable
from delugeserve_client.preprocessing import ImageLike, Pixels
from delugeserve_client.results import Classification
from delugeserve_client.served import PROBABILITIES, ServedModel, read_model
from delugeserve_client.triton import (
    Outputs,
    Reply,
    build_request,
    import_triton,
    open_client,
    read_reply,
)

if TYPE_CHECKING:
    from typing_extensions import Self


class AsyncClassifier:
    """Classifies images like :class:`~delugeserve_client.Classifier`, over gRPC, without blocking.

    The connection is made at the first use, or on entering ``async with``. Images are decoded in a
    worker thread, so the event loop stays free.

    Args:
        url: ``localhost:8001``, the server's gRPC address.
        model: the model's name; by default the server's only model.
        model_version: the version to ask; by default the newest.
        timeout: seconds that the server has for each request.
        credentials: see :class:`~delugeserve_client.Classifier`.

    Raises:
        AddressError: the URL is not of a known form, or asks for HTTP.
    """

    def __init__(
        self,
        url: str | Sequence[str] = "localhost:8001",
        model: str | None = None,
        *,
        model_version: str = "",
        timeout: float = 30.0,
        credentials: Credentials | None = None,
        decode: Decode = "auto",
        retry: RetryPolicy = DEFAULT_RETRY,
        hedge: float | None = None,
        in_flight: int | None = None,
        shared_memory: SharedMemory = "auto",
        max_pixels: int | None = None,
    ) -> None:
        url = url if isinstance(url, str) else next(iter(url))
        self._credentials = Credentials.from_environment() if credentials is None else credentials
        self._address = parse_address(url)
        if self._address.protocol != "grpc":
            raise AddressError(
                f"AsyncClassifier speaks gRPC, but {url} asks for HTTP.",
                "Use the server's gRPC port, usually localhost:8001, or the class Classifier.",
                url=url,
            )
        self._name = model
        self._version = model_version
        self._timeout = timeout
        self._client: Any = None
        self._model: ServedModel | None = None

    async def connect(self) -> ServedModel:
        """Read the model's description from the server; later calls return the same.

        Raises:
            ServerUnavailable: no server answers at the URL, or it speaks HTTP.
            ModelUnavailable: see :class:`~delugeserve_client.Classifier`.
        """
        if self._model is None:
            name = self._name
            try:
                if name is None:
                    name = choose_model(self._address, await self._index())
                metadata = await self._call("get_model_metadata", name, self._version)
                config = await self._call("get_model_config", name, self._version)
            except ServerUnavailable as error:
                raise await asyncio.to_thread(
                    diagnose, self._address, error, self._credentials
                ) from None
            except ModelUnavailable:
                if name is None:
                    raise
                index = await self._index()
                raise not_served(self._address, name, self._version, index) from None
            self._model = read_model(metadata, config["config"], self._version)
        return self._model

    @overload
    async def classify(  # type: ignore[overload-overlap]
        self, images: ImageLike, top_k: int = 5, *, on_error: OnError = "raise"
    ) -> Classification: ...

    @overload
    async def classify(
        self, images: Iterable[ImageLike], top_k: int = 5, *, on_error: OnError = "raise"
    ) -> list[Classification]: ...

    async def classify(
        self,
        images: ImageLike | Iterable[ImageLike],
        top_k: int = 5,
        *,
        on_error: OnError = "raise",
    ) -> Classification | list[Classification]:
        """Classify images; see :meth:`delugeserve_client.Classifier.classify`."""
        if is_one_image(images):
            (one,) = await self.classify([cast("ImageLike", images)], top_k, on_error=on_error)
            return one
        images = cast("Iterable[ImageLike]", images)
        return [result async for result in self.stream(images, top_k, on_error=on_error)]

    async def stream(
        self, images: Iterable[ImageLike], top_k: int = 5, *, on_error: OnError = "raise"
    ) -> AsyncIterator[Classification]:
        """Classify images, and yield the results one by one, in order."""
        check_arguments(images, top_k, on_error)
        model = await self.connect()
        outputs = {PROBABILITIES: min(top_k, model.num_classes)}
        decoded = chunks(images, model, on_error)
        pending: deque[tuple[Chunk, asyncio.Task[Reply]]] = deque()
        try:
            while (chunk := await asyncio.to_thread(next, decoded, None)) is not None:
                pending.append((chunk, asyncio.create_task(self._infer(chunk.pixels, outputs))))
                if len(pending) >= IN_FLIGHT:
                    for result in await _answer(pending):
                        yield result
            while pending:
                for result in await _answer(pending):
                    yield result
        finally:
            for _, task in pending:
                task.cancel()

    async def infer(self, batch: Pixels, output: str = PROBABILITIES) -> npt.NDArray[np.float32]:
        """Run the model on prepared images; see :meth:`delugeserve_client.Classifier.infer`."""
        model = await self.connect()
        check_batch(batch, model, output)
        slots = asyncio.Semaphore(IN_FLIGHT)

        async def infer(part: Pixels) -> npt.NDArray[np.float32]:
            async with slots:
                return (await self._infer(part, {output: 0}))[output]

        parts = await asyncio.gather(*(infer(part) for part in slices(batch, model)))
        return np.concatenate([np.empty((0, model.outputs[output]), np.float32), *parts])

    async def close(self) -> None:
        """Close the connection."""
        client, self._client, self._model = self._client, None, None
        if client is not None:
            await client.close()

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _infer(self, batch: Pixels, outputs: Outputs) -> Reply:
        if not len(batch):
            return {}
        model = await self.connect()
        arguments = build_request(import_triton("grpc"), model, batch, outputs, self._timeout)
        return read_reply(
            await self._await("infer", client_timeout=self._timeout, **arguments), outputs
        )

    async def _index(self) -> list[dict[str, Any]]:
        return list((await self._call("get_model_repository_index")).get("models", []))

    async def _call(self, method: str, *arguments: str) -> Any:
        return await self._await(method, *arguments, as_json=True, client_timeout=self._timeout)

    async def _await(self, method: str, *arguments: Any, **options: Any) -> Any:
        if self._client is None:
            # Not in __init__: gRPC's asyncio channel belongs to the event loop that creates it.
            self._client = open_client("grpc.aio", self._address, self._credentials)
        try:
            return await getattr(self._client, method)(*arguments, **options)
        except import_triton("utils").InferenceServerException as error:
            raise explain(error, self._address, self._timeout) from error


async def _answer(pending: deque[tuple[Chunk, asyncio.Task[Reply]]]) -> list[Classification]:
    chunk, task = pending[0]
    reply = await task
    pending.popleft()
    return chunk.results(reply.get(PROBABILITIES))
