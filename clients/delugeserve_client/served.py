"""The description of a model that classifies images, as its server gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from delugeserve_client.errors import InferenceFailed, UnsuitableModel
from delugeserve_client.preprocessing import INTERPOLATIONS, Preprocessing
from delugeserve_client.results import Prediction

PROBABILITIES = "probabilities"

COMPANION_SUFFIXES = ("_decode", "_image")
"""Ends of the names of the models that let a server take encoded images. This client asks the model
beside them."""

_ERROR = "error"
_ARTIFACT = "artifact"  # the parameter that publishing writes into config.pbtxt

# Larger requests are not faster, and gRPC copies every message a few times.
_MAX_REQUEST_BYTES = 32 * 2**20


@dataclass(frozen=True)
class ServedModel:
    """A model as its server describes it.

    Attributes:
        name: the model's name.
        version: the version asked for; empty leaves the choice to the server, which may load a
            newer one at any time.
        versions: the versions that the server has ready.
        input_name: name of the input tensor, uint8 ``[N, H, W, 3]``, RGB.
        outputs: name of each float32 output, and its number of values per image.
        max_batch_size: largest number of images in a request.
        preprocessing: how an image becomes an input.
        digest: what identifies the artefact that is served: the same model and version with another
            digest gives other answers. None if the server does not say, or serves several versions.
    """

    name: str
    version: str
    versions: tuple[str, ...]
    input_name: str
    outputs: Mapping[str, int]
    max_batch_size: int
    preprocessing: Preprocessing
    digest: str | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.outputs[PROBABILITIES]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of one input image: ``(H, W, 3)``."""
        return (self.preprocessing.height, self.preprocessing.width, 3)

    @property
    def images_per_request(self) -> int:
        """Number of images to put into a request: the server's maximum, or fewer huge ones."""
        height, width, channels = self.image_shape
        return max(1, min(self.max_batch_size, _MAX_REQUEST_BYTES // (height * width * channels)))


@dataclass(frozen=True)
class ImageModel:
    """The model beside another one that takes encoded images: its server decodes them.

    Attributes:
        name: its name.
        input_name: name of its input, BYTES ``[N, 1]``.
        error_name: name of the output that says why an image cannot be read.
        max_batch_size: largest number of images in a request.
    """

    name: str
    input_name: str
    error_name: str
    max_batch_size: int


def images_in_request(model: ServedModel, decoder: ImageModel | None) -> int:
    """Return the number of images to put into a request.

    Args:
        model: the model that takes pixels.
        decoder: the model that takes encoded images, if they are sent to it.
    """
    size = model.images_per_request
    return size if decoder is None else min(size, decoder.max_batch_size)


def read_image_model(
    metadata: Mapping[str, Any], config: Mapping[str, Any], model: ServedModel
) -> ImageModel | None:
    """Read the metadata and configuration of the model beside another one.

    Args:
        metadata: see :func:`read_model`.
        config: see :func:`read_model`.
        model: the model that takes pixels.

    Returns:
        None if it does not give the same answers in the same way: it belongs to another model or
        artefact, prepares images differently, or does not tell which images cannot be read.
    """
    parameters = _strings(config.get("parameters") or {})
    inputs = metadata.get("inputs", [])
    outputs = {str(output.get("name")) for output in metadata.get("outputs", [])}
    digests = {parameters.get(_ARTIFACT), model.digest} - {None}
    fits = (
        parameters.get("companion_of") == model.name
        and parameters.get("preprocessing") == model.preprocessing.digest
        and len(digests) <= 1
        and len(inputs) == 1
        and inputs[0].get("datatype") == "BYTES"
        and {PROBABILITIES, _ERROR} <= outputs
    )
    if not fits:
        return None
    largest = min(int(config.get("max_batch_size", 0)), model.max_batch_size)
    return ImageModel(str(metadata["name"]), str(inputs[0]["name"]), _ERROR, max(1, largest))


def takes_no_images(name: str) -> UnsuitableModel:
    """Return the error for a model beside which none takes encoded images."""
    return UnsuitableModel(
        f"The server does not decode images for the model '{name}'.",
        "Use decode='client', or export the model without --no-image-model.",
        model=name,
    )


def read_model(
    metadata: Mapping[str, Any], config: Mapping[str, Any], version: str = ""
) -> ServedModel:
    """Read a model's metadata and configuration, in the JSON form that both protocols share.

    Args:
        metadata: Triton's model metadata. gRPC's JSON writes 64-bit integers as strings.
        config: Triton's model configuration; gRPC's JSON omits default values.
        version: the version asked for, or empty for the server's choice.

    Raises:
        UnsuitableModel: the model does not classify raw RGB images.
    """
    name = str(metadata.get("name", ""))
    parameters = _strings(config.get("parameters") or {})
    if owner := parameters.get("companion_of"):
        raise UnsuitableModel(
            f"The model '{name}' takes encoded images, but this client sends pixels.",
            f"Use the model '{owner}'.",
            model=name,
        )
    inputs = metadata.get("inputs", [])
    if len(inputs) != 1:
        raise _unsuitable(name, f"has {len(inputs)} inputs instead of one")
    (tensor,) = inputs
    shape = [int(length) for length in tensor.get("shape", [])]
    if tensor.get("datatype") != "UINT8" or len(shape) != 4 or shape[-1] != 3 or min(shape[1:]) < 1:
        raise _unsuitable(
            name, f"takes {tensor.get('datatype')} {shape} instead of UINT8 [N, H, W, 3]"
        )
    max_batch_size = int(config.get("max_batch_size", 0))
    if max_batch_size < 1:
        raise _unsuitable(name, "does not take batches (max_batch_size is 0)")
    outputs = {
        str(output["name"]): int(output["shape"][1])
        for output in metadata.get("outputs", [])
        if output.get("datatype") == "FP32" and len(output.get("shape", [])) == 2
    }
    if outputs.get(PROBABILITIES, 0) < 1:
        raise _unsuitable(name, f"has no output '{PROBABILITIES}' of type FP32 [N, classes]")
    versions = tuple(str(ready) for ready in metadata.get("versions") or ())
    return ServedModel(
        name=name,
        version=version,
        versions=versions,
        input_name=str(tensor["name"]),
        outputs=outputs,
        max_batch_size=max_batch_size,
        preprocessing=_read_preprocessing(name, shape[1], shape[2], parameters),
        # All versions of a model share its configuration.
        digest=parameters.get(_ARTIFACT) if len(versions) <= 1 else None,
    )


def _read_preprocessing(
    name: str, height: int, width: int, values: Mapping[str, str]
) -> Preprocessing:
    resize_size = min(height, width)
    if "resize_size" in values:
        text = values["resize_size"]
        if not text.isdecimal() or int(text) < resize_size:
            raise _unsuitable(
                name, f"has the resize_size '{text}' instead of {resize_size} or more"
            )
        resize_size = int(text)
    interpolation = values.get("interpolation", "bicubic")
    if interpolation not in INTERPOLATIONS:
        raise _unsuitable(name, f"has the unknown interpolation '{interpolation}'")
    preprocessing = Preprocessing(height, width, resize_size, interpolation)
    expected = values.get("preprocessing", preprocessing.digest)  # older models have none
    if expected != preprocessing.digest:
        raise UnsuitableModel(
            f"The model '{name}' was exported for another preprocessing ({expected}) than this "
            f"client's ({preprocessing.digest}), so its predictions would be wrong.",
            "Install the release of delugeserve that exported the model, or export it again with "
            "this one.",
            model=name,
        )
    return preprocessing


def _strings(parameters: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value.get("string_value", "")) for key, value in parameters.items()}


def _unsuitable(name: str, reason: str) -> UnsuitableModel:
    return UnsuitableModel(
        f"The model '{name}' {reason}, so this client cannot use it.",
        "Use a model that delugeserve exported.",
        model=name,
    )


def parse_predictions(strings: Sequence[bytes]) -> tuple[Prediction, ...]:
    """Parse one image's row of Triton's classification extension.

    Args:
        strings: one for each class, ``b"0.93:3:cat"`` (value, index, label), or ``b"0.93:3"``
            without a label. Labels may contain colons.

    Raises:
        InferenceFailed: a string is not of this form.
    """
    predictions = []
    for text in strings:
        try:
            probability, index, label = [*text.decode("utf-8", "replace").split(":", 2), ""][:3]
            found = Prediction(label or f"class {index}", int(index), float(probability))
        except ValueError:
            raise InferenceFailed(
                f"The server answered {text[:80]!r} as a prediction.",
                "Check that the address is that of a Triton Inference Server.",
                message=text.decode("utf-8", "replace"),
            ) from None
        predictions.append(found)
    return tuple(predictions)
