"""The replicas that the gateway asks without the proxy: which there are, and how they are asked.

The supervisor writes their addresses to a file. What does not succeed there is asked of the proxy
again, which knows what else can be done: so whatever goes wrong here costs time, and no answer.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from delugeserve.artifacts.companions import IMAGE
from delugeserve.serving.gateway.batches import AHEAD, Batches, Job, NotAnsweredError
from delugeserve.serving.gateway.calls import Answer, Call
from delugeserve.serving.gateway.decoding import Decoder
from delugeserve.serving.gateway.errors import from_server
from delugeserve_client.address import Address
from delugeserve_client.errors import ClientError
from delugeserve_client.served import (
    PROBABILITIES,
    ServedModel,
    parse_predictions,
    read_image_model,
    read_model,
)
from delugeserve_client.triton import channel_arguments, import_triton

_REST = 1.0  # seconds for which a replica that failed is not asked directly
_DESCRIBE_SECONDS = 5.0
_TRY_SECONDS = 20.0  # that a replica has, as the proxy allows; then another is asked
_MARGIN = 1.0  # seconds
_MOST_BYTES = 2**31 - 1


class Replicas:
    """The replicas that the supervisor names.

    Args:
        file: JSON object of addresses, by the replicas' names; read again when it changes. None, a
            missing or a damaged file names none.
        decoder: decodes the images.
    """

    def __init__(self, file: Path | None, decoder: Decoder) -> None:
        self._file, self._decoder = file, decoder
        self._read_as: tuple[int, int] | None = None
        self._replicas: dict[str, Replica] = {}

    async def classify(
        self, name: str, image: bytes, top_k: int, call: Call, *, ensemble: bool
    ) -> Answer | None:
        """Classify an encoded image; None if the proxy has to be asked.

        Args:
            name: the model's name.
            image: the bytes of an image file.
            top_k: number of classes wanted.
            call: what goes with the request.
            ensemble: the server decodes images for the model too, which must give the same.

        Raises:
            RequestError: it is not an image, or the time is over.
        """
        replica = self._choose()
        if replica is None:
            return None
        replica.images += 1
        try:
            model = await replica.model(name, ensemble=ensemble)
            if model is None:
                return None
            pixels = await self._decoder(model.served.preprocessing, image)
            answer = model.batches.put(pixels, top_k, call)
            return await asyncio.wait_for(answer, max(call.left, 0))
        except asyncio.TimeoutError:
            raise from_server("DEADLINE_EXCEEDED", "", name, call.seconds) from None
        except NotAnsweredError:
            replica.rests_until = time.monotonic() + _REST
            return None
        finally:
            replica.images -= 1

    async def decodes(self, name: str) -> bool:
        """Return whether images for a model with an ensemble are decoded here all the same."""
        replica = self._choose()
        try:
            return bool(replica and await replica.model(name, ensemble=True))
        except NotAnsweredError:
            return False

    def _choose(self) -> Replica | None:
        if self._file is None:
            return None
        self._look(self._file)
        now = time.monotonic()
        usable = [one for one in self._replicas.values() if one.rests_until <= now]
        return min(usable, key=lambda one: one.images, default=None)

    def _look(self, file: Path) -> None:
        try:
            found = file.stat()
            version = found.st_ino, found.st_mtime_ns
            if version == self._read_as:
                return
            named = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._read_as, self._replicas = None, {}
            return
        self._read_as = version
        # One that is left out ends its connection when its last request is answered.
        self._replicas = {
            str(name): self._replicas.get(str(name)) or Replica(str(address))
            for name, address in (named if isinstance(named, dict) else {}).items()
        }


@dataclass(frozen=True)
class _Model:
    served: ServedModel
    batches: Batches


class Replica:
    """A replica, and what it serves: that never changes.

    Args:
        address: ``host:port`` of its gRPC endpoint.

    Attributes:
        images: number of images that are on their way through it.
        rests_until: when it may be asked again, in seconds of the monotonic clock.
    """

    def __init__(self, address: str) -> None:
        grpc: Any = import_triton("grpc.service_pb2_grpc").grpc
        self._messages: Any = import_triton("grpc.service_pb2")
        options = {
            **dict(channel_arguments(Address(address, "grpc"))),
            "grpc.max_receive_message_length": _MOST_BYTES,
        }
        # Kept, since it closes when nothing refers to it any more.
        self._channel = grpc.aio.insecure_channel(address, options=list(options.items()))
        self._stub = import_triton("grpc.service_pb2_grpc").GRPCInferenceServiceStub(self._channel)
        self._failure = grpc.RpcError
        self._models: dict[tuple[str, bool], _Model | None] = {}
        self._describing = asyncio.Lock()
        self.images = 0
        self.rests_until = 0.0

    async def model(self, name: str, *, ensemble: bool) -> _Model | None:
        """Return a model of the replica; None if it has to be asked in another way.

        Raises:
            NotAnsweredError: the replica does not say.
        """
        key = (name, ensemble)
        if key not in self._models:
            async with self._describing:
                if key not in self._models:
                    self._models[key] = await self._describe(name, ensemble=ensemble)
        return self._models[key]

    async def _describe(self, name: str, *, ensemble: bool) -> _Model | None:
        try:
            metadata, config = await self._ask(name)
            served = read_model(metadata, config)
            if ensemble and not read_image_model(*await self._ask(name + IMAGE), served):
                return None  # such as one that decodes on a GPU
        except self._failure as error:
            raise NotAnsweredError(str(error)) from None
        except ClientError:
            return None
        instances = sum(int(one.get("count", 1)) for one in config.get("instance_group", ()))
        # A cached answer is that of a whole request.
        cached = bool(config.get("response_cache", {}).get("enable"))

        async def send(jobs: Sequence[Job]) -> list[Answer]:
            return await self._send(served, jobs)

        images = 1 if cached else served.images_per_request
        requests = max(instances, 1)
        # A server that is told to wait for more requests must get them.
        if int(config.get("dynamic_batching", {}).get("max_queue_delay_microseconds", 0)):
            requests *= AHEAD
        return _Model(served, Batches(send, images, requests))

    async def _ask(self, name: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return metadata and configuration of a model, in their JSON form."""
        from google.protobuf.json_format import MessageToDict

        messages, seconds = self._messages, _DESCRIBE_SECONDS
        metadata = await self._stub.ModelMetadata(
            messages.ModelMetadataRequest(name=name), timeout=seconds
        )
        config = await self._stub.ModelConfig(
            messages.ModelConfigRequest(name=name), timeout=seconds
        )
        return (
            MessageToDict(metadata, preserving_proto_field_name=True),
            MessageToDict(config.config, preserving_proto_field_name=True),
        )

    async def _send(self, model: ServedModel, jobs: Sequence[Job]) -> list[Answer]:
        request = self._messages.ModelInferRequest(
            model_name=model.name,
            id=",".join(job.call.request_id for job in jobs),
            raw_input_contents=[b"".join(job.pixels.tobytes() for job in jobs)],
        )
        request.inputs.add(
            name=model.input_name, datatype="UINT8", shape=(len(jobs), *model.image_shape)
        )
        classes = min(max(job.top_k for job in jobs), model.num_classes)
        output = request.outputs.add(name=PROBABILITIES)
        output.parameters["classification"].int64_param = classes
        # For the server's queue. A job's own time ends its waiting, the last one's the request.
        seconds = max(job.call.left for job in jobs) + _MARGIN
        request.parameters["timeout"].int64_param = int(seconds * 1e6)
        try:
            response = await self._stub.ModelInfer(
                request,
                timeout=_TRY_SECONDS,
                metadata=tuple(jobs[0].call.headers.items()) if len(jobs) == 1 else (),
            )
        except self._failure as error:
            raise NotAnsweredError(str(error)) from None
        texts = import_triton("utils").deserialize_bytes_tensor(response.raw_output_contents[0])
        rows = np.reshape(texts, (len(jobs), classes))
        return [
            Answer(model.name, response.model_version, parse_predictions(row[: job.top_k]))
            for row, job in zip(rows, jobs, strict=True)
        ]
