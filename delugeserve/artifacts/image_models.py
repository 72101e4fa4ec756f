"""The models beside a classifier that make its server take encoded images.

Beside the model ``M``, which takes pixels, the repository has:

- ``M_decode``, a decoder: encoded images (JPEG, PNG and others) to the pixels that ``M`` takes. It
  is a Python model that contains a copy of the client's preprocessing.
- ``M_image``, an ensemble of ``M_decode`` and ``M``: encoded images to probabilities.

Both have the same versions as ``M``, and the ensemble runs one version of each.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import delugeserve_client
from delugeserve.artifacts.companions import COMPANION_OF, companion_names
from delugeserve.artifacts.interface import INPUT, PROBABILITIES
from delugeserve.artifacts.labels import write_labels
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

ENCODED_TENSOR = Tensor("TYPE_STRING", (1,))
"""An encoded image: one value of type BYTES, the content of a file."""

PROBE_IMAGE = b"P6 1 1 255\n\xff\xff\xff"
"""The smallest image that a decoder takes, to ask it whether it is ready: a PPM of one
white pixel."""

_PIXELS = "pixels"
_INSTANCES = 2
_SOURCE = Path(__file__).parent / "decoder" / "model.py"
_CLIENT = Path(delugeserve_client.__file__).parent
_CLIENT_MODULES = ("errors.py", "formats.py", "preprocessing.py")


def stage_companions(
    model: ModelConfig, preprocessing: Preprocessing, class_names: Sequence[str], home: Path
) -> list[Member]:
    """Write a version of a model's decoder and of its ensemble.

    Args:
        model: the model's configuration.
        preprocessing: how an image becomes its input.
        class_names: the model's.
        home: an existing folder to write into.
    """
    configs = (decoder_config(model, preprocessing), ensemble_config(model, preprocessing))
    staged = [Member(one.name, home / one.name, one.to_text()) for one in configs]
    for one in staged:
        one.files.mkdir()
    decoder, ensemble = staged
    write_decoder(decoder.files)
    write_labels(ensemble.files, class_names)
    return staged


def decoder_config(model: ModelConfig, preprocessing: Preprocessing) -> ModelConfig:
    """Return the configuration of a model's decoder, without the version to serve."""
    name, _ = companion_names(model.name)
    return ModelConfig(
        name=name,
        backend="python",
        max_batch_size=model.max_batch_size,
        inputs={ENCODED: ENCODED_TENSOR},
        outputs={INPUT: Tensor("TYPE_UINT8", (preprocessing.height, preprocessing.width, 3))},
        instance_groups=(InstanceGroup(_INSTANCES, "KIND_CPU"),),
        dynamic_batching=True,
        parameters={
            **preprocessing_parameters(preprocessing),
            COMPANION_OF: model.name,
        },
    )


def ensemble_config(model: ModelConfig, preprocessing: Preprocessing) -> ModelConfig:
    """Return the configuration of a model's ensemble, without the version to serve."""
    decoder, name = companion_names(model.name)
    return ModelConfig(
        name=name,
        platform=ENSEMBLE,
        max_batch_size=model.max_batch_size,
        inputs={INPUT: ENCODED_TENSOR},
        outputs={PROBABILITIES: model.outputs[PROBABILITIES]},
        ensemble=(
            EnsembleStep(decoder, {ENCODED: INPUT}, {INPUT: _PIXELS}),
            EnsembleStep(model.name, {INPUT: _PIXELS}, {PROBABILITIES: PROBABILITIES}),
        ),
        parameters={
            **preprocessing_parameters(preprocessing),
            COMPANION_OF: model.name,
        },
    )


def write_decoder(folder: Path) -> None:
    """Write the files of a decoder into a version's folder; they need NumPy and Pillow alone."""
    shutil.copyfile(_SOURCE, folder / _SOURCE.name)
    package = folder / _CLIENT.name
    package.mkdir()
    (package / "__init__.py").write_text(
        '"""The preprocessing of delugeserve_client, copied by \'delugeserve export\'."""\n',
        encoding="utf-8",
    )
    for name in _CLIENT_MODULES:
        shutil.copyfile(_CLIENT / name, package / name)
