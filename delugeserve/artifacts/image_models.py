"""The models beside a classifier that make its server take encoded images.

Beside the model ``M``, which takes pixels, the repository has:

- ``M_decode``, a decoder: encoded images (JPEG, PNG and others) to the pixels that ``M`` takes. It
  is a Python model that contains a copy of the client's preprocessing, or a pipeline for Triton's
  DALI backend, which decodes on an NVIDIA GPU.
- ``M_image``, an ensemble of ``M_decode`` and ``M``: encoded images to probabilities.

Both have the same versions as ``M``, and the ensemble runs one version of each.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import delugeserve_client
from delugeserve.artifacts.companions import COMPANION_OF, companion_names
from delugeserve.artifacts.interface import INPUT, PROBABILITIES
from delugeserve.artifacts.labels import write_labels
from delugeserve.artifacts.manifest import ARTIFACT
from delugeserve.artifacts.members import Member
from delugeserve.artifacts.model_config import (
    ENSEMBLE,
    EnsembleStep,
    InstanceGroup,
    ModelConfig,
    Tensor,
)
from delugeserve.artifacts.preprocessing import preprocessing_parameters
from delugeserve_client.preprocessing import Preprocessing

ENCODED = "encoded"
"""Name of the decoder's input."""

ERROR = "error"
"""Name of the output that says why an image cannot be read; empty for one that can."""

ENCODED_TENSOR = Tensor("TYPE_STRING", (1,))
"""An encoded image: one value of type BYTES, the content of a file."""

PROBE_IMAGE = b"P6 1 1 255\n\xff\xff\xff"
"""The smallest image that a decoder takes, to ask it whether it is ready: a PPM of one
white pixel."""

Decoder = Literal["python", "dali"]
"""What decodes: Pillow in Triton's Python backend, or DALI on an NVIDIA GPU."""

_DALI_TENSOR = Tensor("TYPE_UINT8", (-1,), ragged=True)
"""DALI takes the bytes of a file one by one; requests of files of different lengths may share a
batch, but within a request shorter files are padded with zeros."""

_PIXELS = "pixels"
_INSTANCES = 2
_SOURCES = Path(__file__).parent / "decoder"
_DALI_SIZES = re.compile(r"^HEIGHT, WIDTH, RESIZE_SIZE, BATCH_SIZE = .*$", re.MULTILINE)
_CLIENT = Path(delugeserve_client.__file__).parent
_CLIENT_MODULES = ("errors.py", "formats.py", "image_errors.py", "preprocessing.py")


def stage_companions(
    model: ModelConfig,
    preprocessing: Preprocessing,
    class_names: Sequence[str],
    home: Path,
    decoder: Decoder = "python",
) -> list[Member]:
    """Write a version of a model's decoder and of its ensemble.

    Args:
        model: the model's configuration.
        preprocessing: how an image becomes its input.
        class_names: the model's.
        home: an existing folder to write into.
        decoder: what decodes.
    """
    on_gpu = decoder == "dali"
    configs = (
        dali_config(model, preprocessing) if on_gpu else decoder_config(model, preprocessing),
        ensemble_config(model, preprocessing, decoder),
    )
    staged = [Member(one.name, home / one.name, one.to_text()) for one in configs]
    for one in staged:
        one.files.mkdir()
    if on_gpu:
        write_pipeline(staged[0].files, model, preprocessing)
    else:
        write_decoder(staged[0].files)
    write_labels(staged[1].files, class_names)
    return staged


def decoder_config(model: ModelConfig, preprocessing: Preprocessing) -> ModelConfig:
    """Return the configuration of a model's decoder, without the version to serve."""
    name, _ = companion_names(model.name)
    return ModelConfig(
        name=name,
        backend="python",
        max_batch_size=model.max_batch_size,
        inputs={ENCODED: ENCODED_TENSOR},
        outputs={
            INPUT: Tensor("TYPE_UINT8", (preprocessing.height, preprocessing.width, 3)),
            ERROR: Tensor("TYPE_STRING", (1,)),
        },
        instance_groups=(InstanceGroup(_INSTANCES, "KIND_CPU"),),
        dynamic_batching=True,
        parameters=_parameters(model, preprocessing),
    )


def dali_config(model: ModelConfig, preprocessing: Preprocessing) -> ModelConfig:
    """Return the configuration of a model's decoder for DALI, without the version to serve."""
    on_cpu = decoder_config(model, preprocessing)
    return dataclasses.replace(
        on_cpu,
        backend="dali",
        inputs={ENCODED: _DALI_TENSOR},
        outputs={INPUT: on_cpu.outputs[INPUT]},
        instance_groups=(InstanceGroup(1, "KIND_GPU"),),
    )


def ensemble_config(
    model: ModelConfig, preprocessing: Preprocessing, decoder: Decoder = "python"
) -> ModelConfig:
    """Return the configuration of a model's ensemble, without the version to serve."""
    step, name = companion_names(model.name)
    encoded, errors = ENCODED_TENSOR, {ERROR: Tensor("TYPE_STRING", (1,))}
    if decoder == "dali":
        encoded = dataclasses.replace(_DALI_TENSOR, ragged=False)  # an ensemble joins nothing
        errors = {}
    return ModelConfig(
        name=name,
        platform=ENSEMBLE,
        max_batch_size=model.max_batch_size,
        inputs={INPUT: encoded},
        outputs={PROBABILITIES: model.outputs[PROBABILITIES], **errors},
        ensemble=(
            EnsembleStep(
                step, {ENCODED: INPUT}, {INPUT: _PIXELS, **{name: name for name in errors}}
            ),
            EnsembleStep(model.name, {INPUT: _PIXELS}, {PROBABILITIES: PROBABILITIES}),
        ),
        parameters=_parameters(model, preprocessing),
    )


def _parameters(model: ModelConfig, preprocessing: Preprocessing) -> dict[str, str]:
    """Return the parameters of a companion's configuration."""
    artifact = model.parameters.get(ARTIFACT)
    return {
        **({ARTIFACT: artifact} if artifact else {}),
        **preprocessing_parameters(preprocessing),
        COMPANION_OF: model.name,
    }


def write_decoder(folder: Path) -> None:
    """Write the files of a decoder into a version's folder; they need NumPy and Pillow alone."""
    shutil.copyfile(_SOURCES / "model.py", folder / "model.py")
    package = folder / _CLIENT.name
    package.mkdir()
    (package / "__init__.py").write_text(
        '"""The preprocessing of delugeserve_client, copied by \'delugeserve export\'."""\n',
        encoding="utf-8",
    )
    for name in _CLIENT_MODULES:
        shutil.copyfile(_CLIENT / name, package / name)


def write_pipeline(folder: Path, model: ModelConfig, preprocessing: Preprocessing) -> None:
    """Write the file of a decoder for DALI into a version's folder."""
    sizes = (preprocessing.height, preprocessing.width, preprocessing.resize_size)
    text = (_SOURCES / "dali.py").read_text(encoding="utf-8")
    stated = ", ".join(map(str, (*sizes, model.max_batch_size)))
    line = f"HEIGHT, WIDTH, RESIZE_SIZE, BATCH_SIZE = {stated}"
    (folder / "dali.py").write_text(_DALI_SIZES.sub(line, text), encoding="utf-8")


def probe(dtype: str, shape: Sequence[int]) -> NDArray[Any] | None:
    """Return the smallest request for a model that takes encoded images; None for another model.

    Args:
        dtype: type of its input, as a server's metadata has it, such as ``BYTES``.
        shape: shape of its input, as a server's metadata has it.
    """
    if dtype == "BYTES":
        return np.array([[PROBE_IMAGE]], np.object_)
    if dtype == "UINT8" and len(shape) == 2 and shape[1] < 0:  # a decoder for DALI
        return np.frombuffer(PROBE_IMAGE, np.uint8)[None]
    return None
