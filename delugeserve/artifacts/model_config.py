"""A model's ``config.pbtxt``, written and read by this module alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delugeserve.artifacts import labels
from delugeserve.artifacts.config_message import parse
from delugeserve.artifacts.config_syntax import unknown_fields
from delugeserve.artifacts.interface import INPUT, PROBABILITIES
from delugeserve.artifacts.serving_config import (
    THREADS,
    ServingConfig,
    apply_serving,
    read_queue,
)
from delugeserve.errors import RepositoryError
from delugeserve.system.imports import require

FILE_NAME = "config.pbtxt"

_EXTRA = "export"
_NO_SETTINGS = ServingConfig()

ENSEMBLE = "ensemble"
"""Platform of a model that runs other models."""


@dataclass(frozen=True)
class Tensor:
    """An input or output.

    Attributes:
        dtype: Triton's name of its type, such as ``TYPE_UINT8``.
        dims: shape without the batch dimension; -1 for a free size.
        format: Triton's name of an image's layout, such as ``FORMAT_NHWC``; empty for none.
        ragged: the server may join requests of different free sizes to a batch.
    """

    dtype: str
    dims: tuple[int, ...]
    format: str = ""
    ragged: bool = False


@dataclass(frozen=True)
class InstanceGroup:
    """Instances of a model on one kind of device.

    Attributes:
        count: number of instances, on each GPU of ``gpus`` if there are any.
        kind: Triton's name of the kind, such as ``KIND_CPU``.
        gpus: numbers of the GPUs; empty for all.
    """

    count: int = 1
    kind: str = "KIND_AUTO"
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True)
class EnsembleStep:
    """A model that an ensemble runs.

    Attributes:
        model: its name.
        inputs: the ensemble's tensor for each of its inputs.
        outputs: the ensemble's tensor for each of its outputs.
        version: its version; -1 for the newest.
    """

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    version: int = -1


@dataclass(frozen=True)
class ModelConfig:
    """How Triton serves a model.

    Attributes:
        name: name of the model; empty for the folder's.
        backend: what runs it; derived from ``platform`` if the file has no backend.
        artefact: file that the backend loads; empty for the backend's default.
        max_batch_size: most images in one batch.
        versions: the versions to serve; empty if ``newest`` says which.
        newest: number of the newest versions to serve, Triton's default is one; None for all.
        inputs: by name.
        outputs: by name.
        labels: files with class names by output, relative to the model's folder.
        instance_groups: empty for the backend's default.
        dynamic_batching: the server joins requests to batches.
        queue: how requests wait; what it does not state is Triton's default.
        warmup_batches: batch sizes run before the model is ready.
        parameters: strings for the backend and for clients.
        runtime: file that Triton runs in place of the backend's own library; empty for that.
        platform: Triton's older name of the backend; empty if the file has a backend.
        ensemble: the models that an ensemble runs; empty for any other model.
        unknown_fields: places of fields that this release does not know, such as misspelt ones.
    """

    name: str = ""
    backend: str = ""
    artefact: str = ""
    max_batch_size: int = 0
    versions: tuple[int, ...] = ()
    newest: int | None = 1
    inputs: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    outputs: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    instance_groups: tuple[InstanceGroup, ...] = ()
    dynamic_batching: bool = False
    queue: ServingConfig = _NO_SETTINGS
    warmup_batches: tuple[int, ...] = ()
    parameters: Mapping[str, str] = dataclasses.field(default_factory=dict)
    runtime: str = ""
    platform: str = ""
    ensemble: tuple[EnsembleStep, ...] = ()
    unknown_fields: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Backend, inputs and outputs are stated, so the backend need not find them out."""
        known = self.platform == ENSEMBLE or (self.backend and not self.platform)
        return bool(known and self.inputs and self.outputs)

    @property
    def instances(self) -> int:
        """Number of instances, on each device of their group."""
        return sum(group.count for group in self.instance_groups) or 1

    @property
    def instance_kinds(self) -> tuple[str, ...]:
        """Kinds of the instance groups."""
        return tuple(group.kind for group in self.instance_groups)

    @property
    def threads(self) -> int | None:
        """Threads of an instance; None if the backend divides the cores among the instances."""
        stated = [self.parameters.get(key, "") for key in THREADS.values()]
        return next((int(text) or None for text in stated if text.isdecimal()), None)

    @property
    def queue_delay_us(self) -> int:
        """How long the server waits for more requests, in microseconds."""
        return self.queue.queue_delay_us or 0

    @property
    def request_bytes(self) -> int:
        """Size of the largest request; 0 if the inputs have free sizes."""
        pixels = sum(math.prod(one.dims) for one in self.inputs.values() if -1 not in one.dims)
        return max(1, self.max_batch_size) * pixels  # inputs are uint8

    @property
    def num_classes(self) -> dict[str, int]:
        """Values per image, by output."""
        return {name: output.dims[-1] for name, output in self.outputs.items() if output.dims}

    def serving(self, version: int) -> ModelConfig:
        """Return the configuration that serves one version, with that version's labels.

        An ensemble runs the same version of its models.
        """
        scores = [name for name, output in self.outputs.items() if output.dtype == "TYPE_FP32"]
        return dataclasses.replace(
            self,
            versions=(version,),
            labels=dict.fromkeys(scores, f"{version}/{labels.FILE_NAME}"),
            ensemble=tuple(dataclasses.replace(one, version=version) for one in self.ensemble),
        )

    def to_text(self) -> str:
        """Return the text of ``config.pbtxt``.

        It is made from Triton's own protobuf message, so that a misspelt field fails here.
        """
        pb = require("tritonclient.grpc.model_config_pb2", _EXTRA)
        text_format = require("google.protobuf.text_format", _EXTRA)
        message = pb.ModelConfig(
            name=self.name,
            **({"platform": self.platform} if self.platform else {"backend": self.backend}),
            runtime=self.runtime,
            default_model_filename=self.artefact,
            max_batch_size=self.max_batch_size,
            input=[
                pb.ModelInput(
                    name=name,
                    data_type=pb.DataType.Value(one.dtype),
                    dims=one.dims,
                    format=pb.ModelInput.Format.Value(one.format or "FORMAT_NONE"),
                    allow_ragged_batch=one.ragged,
                )
                for name, one in self.inputs.items()
            ],
            output=[
                pb.ModelOutput(
                    name=name,
                    data_type=pb.DataType.Value(one.dtype),
                    dims=one.dims,
                    label_filename=self.labels.get(name, ""),
                )
                for name, one in self.outputs.items()
            ],
            instance_group=[
                pb.ModelInstanceGroup(
                    count=group.count,
                    kind=pb.ModelInstanceGroup.Kind.Value(group.kind),
                    gpus=group.gpus,
                )
                for group in self.instance_groups
            ],
            model_warmup=[self._warmup(pb, size) for size in self.warmup_batches],
            parameters={
                key: pb.ModelParameter(string_value=value) for key, value in self.parameters.items()
            },
        )
        if self.versions:
            message.version_policy.specific.versions.extend(self.versions)
        elif self.newest is None:
            message.version_policy.all.SetInParent()
        elif self.newest > 1:
            message.version_policy.latest.num_versions = self.newest
        for step in self.ensemble:
            message.ensemble_scheduling.step.add(
                model_name=step.model,
                model_version=step.version,
                input_map=step.inputs,
                output_map=step.outputs,
            )
        if self.dynamic_batching:
            message.dynamic_batching.SetInParent()
            apply_serving(self.queue, message)
        text: str = text_format.MessageToString(message)
        return text

    def warmup_text(self, sizes: Iterable[int]) -> str:
        """Return the lines of a ``config.pbtxt`` that warm a model up, joined to one.

        Args:
            sizes: batch sizes to run before the model is ready.
        """
        pb = require("tritonclient.grpc.model_config_pb2", _EXTRA)
        text_format = require("google.protobuf.text_format", _EXTRA)
        message = pb.ModelConfig(model_warmup=[self._warmup(pb, size) for size in sizes])
        text: str = text_format.MessageToString(message, as_one_line=True)
        return text

    def _warmup(self, pb: Any, size: int) -> Any:
        return pb.ModelWarmup(
            name=f"batch of {size}",
            batch_size=size,
            inputs={
                name: pb.ModelWarmup.Input(
                    data_type=pb.DataType.Value(one.dtype), dims=one.dims, zero_data=True
                )
                for name, one in self.inputs.items()
            },
        )


def classifier_config(
    *,
    name: str,
    backend: str,
    artefact: str,
    max_batch_size: int,
    image_size: int,
    num_classes: int,
    instance_group: InstanceGroup,
    parameters: Mapping[str, str],
    runtime: str = "",
    outputs: Sequence[str] = (PROBABILITIES,),
    queue: ServingConfig = _NO_SETTINGS,
) -> ModelConfig:
    """Return the configuration of an exported classifier, without the version to serve.

    Args:
        name: name of the model in the repository.
        backend: Triton's name of the backend.
        artefact: file that the backend loads.
        max_batch_size: most images in one batch.
        image_size: height and width of the input, in pixels.
        num_classes: length of the outputs.
        instance_group: number and kind of the instances.
        parameters: strings for the backend and for clients.
        runtime: file that Triton runs in place of the backend's own library; empty lets Triton
            choose.
        outputs: the outputs that clients can ask for. Triton's own image clients refuse a model
            that has more than one.
        queue: how requests wait; what it does not state is Triton's default.
    """
    return ModelConfig(
        name=name,
        backend=backend,
        artefact=artefact,
        max_batch_size=max_batch_size,
        inputs={INPUT: Tensor("TYPE_UINT8", (image_size, image_size, 3), "FORMAT_NHWC")},
        outputs=dict.fromkeys(outputs, Tensor("TYPE_FP32", (num_classes,))),
        instance_groups=(instance_group,),
        dynamic_batching=True,
        queue=queue,
        warmup_batches=tuple(sorted({1, max_batch_size})),
        parameters=parameters,
        runtime=runtime,
    )


def read_config(folder: Path) -> ModelConfig:
    """Read ``config.pbtxt`` from a model's folder.

    Fields that this release does not know are ignored: a newer Triton may have them.

    Raises:
        RepositoryError: it cannot be read.
    """
    return parse_config(folder / FILE_NAME)


def parse_config(path: Path, content: bytes | None = None) -> ModelConfig:
    """Read a file in the format of ``config.pbtxt``; see :func:`read_config`.

    Args:
        path: the file.
        content: its content, if it was read before.

    Raises:
        RepositoryError: it cannot be read.
    """
    pb = require("tritonclient.grpc.model_config_pb2", _EXTRA)
    text_format = require("google.protobuf.text_format", _EXTRA)
    try:
        text = (path.read_bytes() if content is None else content).decode()
        message = parse(text)
    except (text_format.ParseError, UnicodeDecodeError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RepositoryError(
            f"The configuration of model '{path.parent.name}' cannot be read ({path}: {reason}).",
            "Correct the file, or move it elsewhere and export the model again.",
            path,
        ) from None
    return ModelConfig(
        name=message.name,
        backend=message.backend or message.platform.partition("_")[0],
        artefact=message.default_model_filename,
        max_batch_size=message.max_batch_size,
        versions=tuple(message.version_policy.specific.versions),
        newest=None
        if message.version_policy.HasField("all")
        else message.version_policy.latest.num_versions or 1,
        inputs={
            one.name: Tensor(
                pb.DataType.Name(one.data_type),
                tuple(one.dims),
                one.Format.Name(one.format) if one.format else "",
                one.allow_ragged_batch,
            )
            for one in message.input
        },
        outputs={
            one.name: Tensor(pb.DataType.Name(one.data_type), tuple(one.dims))
            for one in message.output
        },
        labels={one.name: one.label_filename for one in message.output if one.label_filename},
        instance_groups=tuple(
            # Triton reads a missing count as 1.
            InstanceGroup(group.count or 1, group.Kind.Name(group.kind), tuple(group.gpus))
            for group in message.instance_group
        ),
        dynamic_batching=message.HasField("dynamic_batching"),
        queue=read_queue(message),
        # Triton reads a missing batch size as 1.
        warmup_batches=tuple(warmup.batch_size or 1 for warmup in message.model_warmup),
        parameters={key: value.string_value for key, value in message.parameters.items()},
        runtime=message.runtime,
        platform="" if message.backend else message.platform,
        ensemble=tuple(
            EnsembleStep(
                step.model_name, dict(step.input_map), dict(step.output_map), step.model_version
            )
            for step in message.ensemble_scheduling.step
        ),
        unknown_fields=tuple(unknown_fields(text, message)),
    )


def read_message(folder: Path) -> Any:
    """Read ``config.pbtxt`` from a model's folder into Triton's protobuf message.

    Raises:
        RepositoryError: it cannot be read.
    """
    path = folder / FILE_NAME
    parse_config(path)  # the error
    return parse(path.read_text(encoding="utf-8"))
