"""A repository for the reliability tests: two models, two versions each, and the right answers.

Version 2 computes the same classes as version 1 in another order, with another runtime and another
largest batch. An answer that mixes two versions therefore has a wrong class number or a wrong name.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from delugeserve.artifacts.preprocessing import preprocessing_of
from delugeserve.artifacts.promotion import promote
from delugeserve.data.datasets import load_images

if TYPE_CHECKING:
    from delugeserve.networks.checkpoint import Checkpoint

WEIGHTS = Path(__file__).parents[1] / "delugeserve" / "weights"
MODELS = ("delugenet38", "delugenet32_clothing")
PICTURES = 32
_CANDIDATES = 200
_MARGIN = 0.2  # between the two best classes, so that rounding cannot change the first


@dataclass(frozen=True)
class Version:
    """How a version is exported.

    Attributes:
        number: its number.
        backend: of :func:`delugeserve_export.plan_export`.
        max_batch_size: largest batch.
        shift: the class at position ``c`` of the checkpoint is number ``c + shift``.
    """

    number: int
    backend: str
    max_batch_size: int
    shift: int


VERSIONS = (Version(1, "openvino", 64, 0), Version(2, "onnxruntime", 32, 3))


@dataclass(frozen=True)
class Answer:
    """What a version has to answer for one picture.

    Attributes:
        index: number of the class.
        label: name of the class.
    """

    index: int
    label: str


@dataclass(frozen=True)
class KnownModel:
    """A model, pictures, and what each of its versions answers for them.

    Attributes:
        name: of the model.
        pictures: uint8 ``[K, H, W, 3]``.
        encoded: the same pictures as PNG files.
        answers: for each version, the answer for each picture.
    """

    name: str
    pictures: NDArray[np.uint8]
    encoded: tuple[bytes, ...]
    answers: Mapping[int, Sequence[Answer]]


def make_repository(
    repository: Path,
    checkpoints: Sequence[Path] = tuple(WEIGHTS / f"{name}.safetensors" for name in MODELS),
    versions: Sequence[Version] = VERSIONS,
    sources: Mapping[str, str] | None = None,
    report: Callable[[str], object] = lambda _text: None,
) -> list[KnownModel]:
    """Export every version of every model, unless it is there, and return what is right.

    Version 1 is served at first.

    Args:
        repository: the model repository; a new folder, or one from an earlier call.
        checkpoints: trained networks.
        versions: the versions of each.
        sources: data sets to take pictures from, by model; the others are asked about crops of
            photographs, or about CIFAR-10 if ``DELUGESERVE_DATA`` names it.
        report: told what is being done.
    """
    from delugeserve.networks.checkpoint import load_checkpoint

    found = []
    for path in checkpoints:
        checkpoint = load_checkpoint(path)
        name = checkpoint.spec.name
        for version in versions:
            if not (repository / name / str(version.number)).exists():
                report(f"exporting {name}, version {version.number}")
                _export(checkpoint, version, repository)
        found.append(_known(checkpoint, versions, (sources or {}).get(name)))
        promote(repository, name, versions[0].number, replace_classes=True)
    return found


def _export(checkpoint: Checkpoint, version: Version, repository: Path) -> None:
    from delugeserve.networks.checkpoint import save_checkpoint
    from delugeserve_export import export, plan_export

    rolled = _roll(checkpoint, version.shift)
    path = repository.parent / f"{checkpoint.spec.name}-{version.number}.safetensors"
    save_checkpoint(rolled, path)
    done = export(
        plan_export(
            rolled.spec,
            path,
            repository=repository,
            version=version.number,
            backend=version.backend,
            max_batch_size=version.max_batch_size,
            sum_form="mul",
            replace_classes=True,
        )
    )
    path.unlink()
    if not done.published:
        raise RuntimeError(f"{checkpoint.spec.name}, version {version.number}: {done.failures}")


def _roll(checkpoint: Checkpoint, shift: int) -> Checkpoint:
    """Return a network that gives its classes in another order."""
    spec, state = checkpoint.spec, dict(checkpoint.state)
    for name in ("head.linear.weight", "head.linear.bias"):
        state[name] = state[name].roll(shift, 0)
    names = np.roll(np.array(spec.task.class_names, object), shift).tolist()
    task = dataclasses.replace(spec.task, class_names=tuple(names))
    return dataclasses.replace(
        checkpoint, spec=dataclasses.replace(spec, task=task), state=state, metrics={}
    )


def _known(checkpoint: Checkpoint, versions: Sequence[Version], source: str | None) -> KnownModel:
    """Choose pictures whose class the network is sure of, and right about if that is known."""
    from delugeserve.networks.classifier import network_classifier
    from delugeserve_export.samples import default_source, photo_crops

    task = checkpoint.spec.task
    source = source or default_source(task)
    labels = None
    if source:
        data = load_images(source, "test", task, limit=_CANDIDATES)
        images, labels = data.images, data.labels
    else:
        images = photo_crops(task.image_size, _CANDIDATES)
    # What a server decodes goes through the same preprocessing.
    prepare = preprocessing_of(task)
    encoded = [_png(_enlarged(image, task.resize_size)) for image in images]
    images = np.stack([prepare(file) for file in encoded])
    logits = network_classifier(checkpoint.build(), task)(images)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    second, first = np.sort(shares, 1)[:, -2:].T
    classes = logits.argmax(1)
    sure = first - second > _MARGIN
    if labels is not None:
        sure &= classes == labels
    rows = _of_many_classes(np.flatnonzero(sure), classes)
    if not len(rows):
        raise RuntimeError(f"{checkpoint.spec.name} is sure of no picture")
    names, count = task.class_names, task.num_classes
    answers = {
        version.number: [
            Answer(int(classes[row] + version.shift) % count, names[classes[row]]) for row in rows
        ]
        for version in versions
    }
    chosen = tuple(encoded[row] for row in rows)
    return KnownModel(checkpoint.spec.name, images[rows], chosen, answers)


def _of_many_classes(rows: NDArray[np.intp], classes: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return at most ``PICTURES`` rows: the first of each class, then the second, and so on."""
    seen: dict[int, int] = {}
    order = []
    for row in rows:
        rank = seen[classes[row]] = seen.get(classes[row], 0) + 1
        order.append((rank, row))
    return np.array([row for _, row in sorted(order)[:PICTURES]], np.intp)


def _enlarged(image: NDArray[np.uint8], size: int) -> Image.Image:
    return Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
