"""What is sent in each workload, and the answers that are right."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.peers.interface import JPEG, Model
from delugeserve.artifacts.manifest import read_manifest
from delugeserve.artifacts.model_config import read_message
from delugeserve.artifacts.preprocessing import preprocessing_of
from delugeserve.artifacts.repository import find_models
from delugeserve.artifacts.serving_config import read_serving, stops_prefetching
from delugeserve.errors import UsageError
from delugeserve.runtimes import BACKENDS

_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")  # of scikit-image
_CROPS = 32  # of each
_SIZE = (500, 375)
_TOP = 10
TOLERANCE = 0.02
"""Largest difference of a probability from that of an image alone; it is for bf16."""

_HINTS = {"bf16": "bf16", "fp32": "f32"}


@dataclass(frozen=True)
class Workload:
    """Images and the model's answers.

    Attributes:
        name: see :data:`benchmarks.peers.interface.WORKLOADS`.
        images: pixels or files, by sample.
        inputs: uint8 ``[N, H, W, 3]``: the network's inputs for them.
        answers: float32 ``[N, classes]``: the probabilities in a right answer.
    """

    name: str
    images: Sequence[bytes] = field(repr=False)
    inputs: npt.NDArray[np.uint8] = field(repr=False)
    answers: npt.NDArray[np.float32] = field(repr=False)

    @property
    def probe(self) -> bytes:
        """The image that a server is asked for to see whether it is ready."""
        return self.images[0]

    @property
    def probe_answer(self) -> npt.NDArray[np.float32]:
        """The right answer to it."""
        first: npt.NDArray[np.float32] = self.answers[0]
        return first


def find_model(repository: Path, name: str) -> Model:
    """Return a model of a repository.

    Raises:
        UsageError: it is not for OpenVINO, or Triton's batcher stalls with its configuration.
    """
    (stored,) = find_models(repository, [name])
    for folder in sorted(repository.glob(f"{name}*")):
        if stops_prefetching(read_serving(read_message(folder))):
            raise UsageError(
                f"Triton's batcher stalls with the limits of the queue of '{folder.name}'.",
                f"Remove them: delugeserve configure {folder.name} --repository {repository} "
                "--queue-size 0 --queue-timeout 0 --no-client-timeout --priorities 0",
            )
    folder = stored.folder / str(stored.version)
    manifest = read_manifest(folder)
    if manifest.backend != "openvino" or manifest.precision not in _HINTS:
        raise UsageError(
            f"'{name}' is for {manifest.backend} in {manifest.precision}; the peers run OpenVINO.",
            f"Export it: delugeserve export --model {name} --backend openvino",
        )
    task = manifest.network.task
    return Model(
        name=name,
        repository=repository.resolve(),
        folder=folder,
        artefact=folder / manifest.artefact,
        precision=_HINTS[manifest.precision],
        shape=(task.image_size, task.image_size, 3),
        preprocessing=preprocessing_of(task),
        labels=tuple(task.class_names),
        top_k=min(_TOP, len(task.class_names)),
    )


def prepare(model: Model, names: Sequence[str]) -> list[Workload]:
    """Make workloads; the engine answers their images in this process, one by one.

    Raises:
        UsageError: no image has clear answers.
    """
    files = np.asarray(photographs(), object)
    inputs = np.stack([model.preprocessing(file) for file in files])
    manifest = read_manifest(model.folder)
    infer = BACKENDS[manifest.backend].load(model.artefact, manifest.precision)
    answers = np.concatenate([infer(one[None])[1] for one in inputs])
    clear = is_clear(answers, model.top_k)
    if not clear.any():
        raise UsageError(
            f"The {model.top_k} best classes of '{model.name}' are not clear for any image.",
            "Use a trained model.",
        )
    files, inputs, answers = files[clear], inputs[clear], answers[clear]
    pixels = [one.tobytes() for one in inputs]
    best = keep_best(answers, model.top_k)
    return [
        Workload(name, files.tolist(), inputs, best)
        if name == JPEG
        else Workload(name, pixels, inputs, answers)
        for name in names
    ]


def is_clear(answers: npt.NDArray[np.float32], top_k: int) -> npt.NDArray[np.bool_]:
    """Return which answers have the same ``top_k`` classes if probabilities change a little.

    In bf16, an image's probabilities depend a little on the batch that it is part of.
    """
    if top_k == answers.shape[1]:
        return np.ones(len(answers), bool)
    ordered = np.sort(answers, axis=1)
    last, next_one = ordered[:, -top_k], ordered[:, -top_k - 1]
    clear: npt.NDArray[np.bool_] = (last < TOLERANCE / 2) | (last - next_one > TOLERANCE)
    return clear


def keep_best(answers: npt.NDArray[np.float32], top_k: int) -> npt.NDArray[np.float32]:
    """Return probabilities with 0 for all but the ``top_k`` largest."""
    best = np.argsort(answers, axis=1)[:, -top_k:]
    kept = np.zeros_like(answers)
    np.put_along_axis(kept, best, np.take_along_axis(answers, best, 1), 1)
    return kept


def photographs() -> list[bytes]:
    """Return JPEGs of 500 x 375: parts of photographs of scikit-image."""
    import skimage.data
    from PIL import Image, ImageOps

    rng = np.random.default_rng(0)
    encoded = []
    for name in _PHOTOGRAPHS:
        photo = Image.fromarray(getattr(skimage.data, name)())
        for _ in range(_CROPS):
            width = int(rng.uniform(0.5, 1) * photo.width)
            height = int(rng.uniform(0.5, 1) * photo.height)
            left = int(rng.uniform(0, photo.width - width))
            upper = int(rng.uniform(0, photo.height - height))
            part = photo.crop((left, upper, left + width, upper + height))
            stream = io.BytesIO()
            ImageOps.fit(part, _SIZE).save(stream, "JPEG", quality=90)
            encoded.append(stream.getvalue())
    return encoded
