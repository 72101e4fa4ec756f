"""The inference server behind the gateway: its models, and one image to one answer over gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from delugeserve.artifacts.companions import COMPANION_OF, DECODE, IMAGE
from delugeserve.serving.gateway.calls import Answer, Call
from delugeserve.serving.gateway.decoding import Decoder
from delugeserve.serving.gateway.errors import RequestError, from_server, unavailable
from delugeserve.serving.gateway.replicas import Replicas
from delugeserve_client.address import Address
from delugeserve_client.errors import ClientError
from delugeserve_client.served import PROBABILITIES, ServedModel, parse_predictions, read_model
from delugeserve_client.triton import build_request, channel_arguments, import_triton

_KEPT = 1.0  # seconds for which the list of models is believed
_PAUSES = (0.1, 0.2, 0.4, 0.8)  # seconds between attempts, while the proxy restarts
_OWN_ARGUMENTS = {
    # The proxy sends requests again, and a second loop of retries would multiply an overload.
    "grpc.enable_retries": 0,
}


@dataclass(frozen=True)
class Endpoint:
    """A model that the server has ready.

    Attributes:
        name: the model's name.
        versions: its versions that are ready.
        takes_encoded: whether the server decodes images for it.
    """

    name: str
    versions: tuple[str, ...]
    takes_encoded: bool


class Upstream:
    """A connection to the inference server.

    Args:
        address: ``host:port`` of its gRPC endpoint.
        replicas: the file that names the replicas behind it, see
            :class:`delugeserve.serving.gateway.replicas.Replicas`.
        seconds: time that it has for questions about its models.
    """

    def __init__(self, address: str, replicas: Path | None = None, seconds: float = 5.0) -> None:
        self._address, self._seconds = address, seconds
        self._client: Any = None
        self._endpoints: dict[str, Endpoint] = {}
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()
        self._described: dict[str, ServedModel] = {}
        self._owners: dict[tuple[str, tuple[str, ...]], str] = {}
        self._decoder = Decoder()
        self._replicas = Replicas(replicas, self._decoder)

    async def endpoints(self, *, fresh: bool = False) -> Mapping[str, Endpoint]:
        """Return the models that the server has ready, by name.

        Args:
            fresh: ask the server, even if it was asked a moment ago.

        Raises:
            RequestError: the server does not answer.
        """
        asked_at = time.monotonic()
        async with self._reading:
            # Whoever waited for another's question takes its answer.
            if self._read_at < (asked_at if fresh else asked_at - _KEPT):
                try:
                    index = await self._describe("get_model_repository_index")
                    self._endpoints = await self._find_endpoints(_ready(index.get("models", [])))
                except RequestError:
                    # Whether a model answers is for the request itself to find out.
                    if fresh or not self._endpoints:
                        raise
                self._read_at = time.monotonic()
        return self._endpoints

    async def classify(self, name: str, image: bytes, top_k: int, call: Call) -> Answer:
        """Classify an encoded image.

        Args:
            name: the model's name; one that :meth:`endpoints` returned.
            image: the bytes of an image file.
            top_k: number of classes wanted.
            call: what goes with the request.

        Raises:
            RequestError: it is not an image, or the server did not answer.
        """
        endpoint = (await self.endpoints()).get(name)
        if call.direct and endpoint is not None:
            answer = await self._replicas.classify(
                name, image, top_k, call, ensemble=endpoint.takes_encoded
            )
            if answer is not None:
                return answer
        try:
            return await self._classify(endpoint, image, top_k, call)
        except RequestError as error:
            if error.status != 503:
                raise
            # The server may have got or lost the ensemble that decodes for this model.
            now = (await self.endpoints(fresh=True)).get(name)
            if now is None or endpoint is None or now.takes_encoded == endpoint.takes_encoded:
                raise
            return await self._classify(now, image, top_k, call)

    async def decodes(self, endpoint: Endpoint) -> bool:
        """Return whether this process decodes the images for a model."""
        return not endpoint.takes_encoded or await self._replicas.decodes(endpoint.name)

    async def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        self._decoder.close()
        if client is not None:
            await client.close()

    async def _find_endpoints(self, ready: Mapping[str, tuple[str, ...]]) -> dict[str, Endpoint]:
        owners = {
            name: await self._owner(name, versions)
            for name, versions in ready.items()
            if any(name.endswith(end) and name[: -len(end)] in ready for end in (IMAGE, DECODE))
        }
        return {
            name: Endpoint(name, versions, owners.get(name + IMAGE) == name)
            for name, versions in ready.items()
            if not owners.get(name)
        }

    async def _owner(self, name: str, versions: tuple[str, ...]) -> str:
        """Return the model that a model belongs to; empty for one of its own."""
        if (name, versions) not in self._owners:
            config = (await self._describe("get_model_config", name))["config"]
            stated = config.get("parameters", {}).get(COMPANION_OF, {})
            self._owners[name, versions] = str(stated.get("string_value", ""))
        return self._owners[name, versions]

    async def _classify(
        self, endpoint: Endpoint | None, image: bytes, top_k: int, call: Call
    ) -> Answer:
        if endpoint is None:
            raise unavailable()
        ask = self._classify_encoded if endpoint.takes_encoded else self._classify_decoded
        return await ask(endpoint.name, image, top_k, call)

    async def _classify_encoded(self, name: str, image: bytes, top_k: int, call: Call) -> Answer:
        grpc = import_triton("grpc")
        tensor = grpc.InferInput("image", [1, 1], "BYTES")
        # Of dtype object: dtype bytes would cut trailing zeros off.
        tensor.set_data_from_numpy(np.array([[image]], dtype=np.object_))
        arguments = {
            "model_name": name + IMAGE,
            "inputs": [tensor],
            "outputs": [grpc.InferRequestedOutput(PROBABILITIES, class_count=top_k)],
        }
        return self._answer(name, await self._infer(name, arguments, call))

    async def _classify_decoded(self, name: str, image: bytes, top_k: int, call: Call) -> Answer:
        for _ in range(2):
            model = await self._model(name)
            pixels = await self._decoder(model.preprocessing, image)
            count = min(top_k, model.num_classes)
            arguments = build_request(
                import_triton("grpc"), model, pixels[np.newaxis], {PROBABILITIES: count}
            )
            try:
                result = await self._infer(name, arguments, call)
            except RequestError as error:
                # Another version may take another size of input.
                if error.status != 400 or not self._described.pop(name, None):
                    raise
                failure = error
                continue
            answer = self._answer(name, result)
            if not model.versions or answer.version in model.versions:
                return answer
            # A new version is served since: its preprocessing may be another.
            self._described.pop(name, None)
            failure = unavailable()
        raise failure

    async def _model(self, name: str) -> ServedModel:
        if name not in self._described:
            metadata = await self._describe("get_model_metadata", name)
            config = await self._describe("get_model_config", name)
            try:
                self._described[name] = read_model(metadata, config["config"])
            except ClientError as error:
                raise RequestError(
                    422, error.problem, "Choose a model that GET /models lists."
                ) from None
        return self._described[name]

    @staticmethod
    def _answer(name: str, result: Any) -> Answer:
        (row,) = result.as_numpy(PROBABILITIES)
        return Answer(name, result.get_response().model_version, parse_predictions(row))

    async def _infer(self, name: str, arguments: dict[str, Any], call: Call) -> Any:
        return await self._call(
            name,
            call,
            "infer",
            request_id=call.request_id,
            headers=dict(call.headers) or None,
            **arguments | {"timeout": int(max(call.left, 0.001) * 1e6)},
        )

    async def _describe(self, method: str, *arguments: str) -> Any:
        name = arguments[0] if arguments else ""
        return await self._call(name, Call(self._seconds), method, *arguments, as_json=True)

    async def _call(
        self, name: str, call: Call, method: str, *arguments: Any, **options: Any
    ) -> Any:
        failed = import_triton("utils").InferenceServerException
        for pause in (*_PAUSES, None):
            left = max(call.left, 0.001)
            try:
                function = getattr(self._connected(), method)
                return await function(*arguments, client_timeout=left, **options)
            except failed as error:
                status = str(error.status() or "").rpartition(".")[2]
                refused = from_server(status, error.message() or "", name, call.seconds)
                if refused.status != 503 or pause is None or left < 2 * pause:
                    raise refused from None
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    def _connected(self) -> Any:
        # Not in __init__: gRPC's asyncio channel belongs to the event loop that creates it.
        if self._client is None:
            arguments = {
                **dict(channel_arguments(Address(self._address, "grpc"))),
                **_OWN_ARGUMENTS,
            }
            self._client = import_triton("grpc.aio").InferenceServerClient(
                self._address, channel_args=list(arguments.items())
            )
        return self._client


def _ready(index: list[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Return the versions that are ready, by model."""
    ready: dict[str, list[str]] = {}
    for entry in index:
        if entry.get("state") == "READY":
            ready.setdefault(str(entry["name"]), []).append(str(entry.get("version", "")))
    return {name: tuple(versions) for name, versions in sorted(ready.items())}
