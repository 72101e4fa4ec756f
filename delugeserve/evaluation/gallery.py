"""A page with the pictures that a classifier is most confidently wrong about, by class pair."""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from delugeserve._version import __version__
from delugeserve.data.datasets import LabelledImages
from delugeserve.errors import UsageError
from delugeserve.evaluation.metrics import Predictions, percent
from delugeserve.system.files import write_output
from delugeserve.system.imports import require

_TEMPLATE = Path(__file__).with_name("gallery.html.jinja")
_READABLE = 128
"""Least width of a picture on the page, in pixels; smaller images are magnified."""
_LARGEST_PNG = 64  # pixels; larger images are JPEGs, which are smaller
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class Mistake:
    """An image that is predicted as another class.

    Attributes:
        index: of the image in the data.
        label: its class.
        predicted: the predicted class.
        confidence: probability of the predicted class.
        label_probability: probability of its class.
    """

    index: int
    label: int
    predicted: int
    confidence: float
    label_probability: float


@dataclass(frozen=True)
class Pair:
    """The mistakes between two classes.

    Attributes:
        label: the class of the images.
        predicted: the class that they are predicted as.
        total: number of such mistakes in the data.
        num_images: number of images of the class.
        mistakes: those to show, the most confident first.
    """

    label: int
    predicted: int
    total: int
    num_images: int
    mistakes: tuple[Mistake, ...]


@dataclass(frozen=True)
class _Card:
    """What the page shows of a mistake: the picture as a data URI, and its name."""

    source: str
    name: str
    file: str
    confidence: float
    label_probability: float


def find_mistakes(predictions: Predictions, count: int) -> tuple[Pair, ...]:
    """Return the most confident mistakes, grouped by class pair.

    Args:
        predictions: the predictions on all images.
        count: most mistakes to return.

    Returns:
        The pairs of classes, those with the most mistakes in the data first.
    """
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    order = np.argsort(-predictions.confidences[wrong], kind="stable")
    shown: dict[tuple[int, int], list[Mistake]] = {}
    for index in wrong[order[:count]].tolist():
        label, predicted = int(predictions.labels[index]), int(predictions.predicted[index])
        mistake = Mistake(
            index,
            label,
            predicted,
            float(predictions.confidences[index]),
            float(np.exp(predictions.log_likelihoods[index])),
        )
        shown.setdefault((label, predicted), []).append(mistake)
    pairs = [
        Pair(
            label,
            predicted,
            int(((predictions.labels == label) & (predictions.predicted == predicted)).sum()),
            int((predictions.labels == label).sum()),
            tuple(mistakes),
        )
        for (label, predicted), mistakes in shown.items()
    ]
    # The sort is stable: pairs with as many mistakes stay in the order of their most confident one.
    return tuple(sorted(pairs, key=lambda pair: -pair.total))


def check_gallery_path(path: Path) -> None:
    """Check before the work that a gallery can be written to a path.

    Raises:
        UsageError: it does not end in .html.
        MissingExtraError: Jinja is not installed.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        page = path.parent / f"{path.stem}.html"
        remedy = f"Use --gallery {shlex.quote(str(page))}"
        raise UsageError("Gallery path must end in .html.", remedy)
    require("jinja2", "export")


def write_gallery(
    path: Path, predictions: Predictions, data: LabelledImages, title: str, count: int = 100
) -> int:
    """Write the most confident mistakes to a page of HTML that needs no other file.

    Args:
        path: the file, which ends in ``.html``.
        predictions: on all images of ``data``.
        data: the images as the classifier saw them.
        title: the classifier's name.
        count: most mistakes to show.

    Returns:
        The number of mistakes on the page.

    Raises:
        UsageError: the file cannot be written.
        MissingExtraError: Jinja is not installed.
    """
    pairs = find_mistakes(predictions, count)
    text = render_gallery(pairs, predictions, data, title)
    with write_output(path) as beside:
        beside.write_text(text, encoding="utf-8", errors="replace")
    return sum(len(pair.mistakes) for pair in pairs)


def render_gallery(
    pairs: Sequence[Pair], predictions: Predictions, data: LabelledImages, title: str
) -> str:
    """Return the page; arguments are those of :func:`write_gallery`."""
    jinja2 = require("jinja2", "export")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    total = len(predictions.labels)
    wrong = int((predictions.predicted != predictions.labels).sum())
    size = data.images.shape[2]
    page: str = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        total=total,
        wrong=wrong,
        error=percent(wrong, total),
        shown=sum(len(pair.mistakes) for pair in pairs),
        size=size,
        width=size * -(-_READABLE // size),
        class_names=data.class_names,
        part=data.part,
        pairs=[(pair, [_card(mistake, data) for mistake in pair.mistakes]) for pair in pairs],
        version=__version__,
    )
    return page


def _card(mistake: Mistake, data: LabelledImages) -> _Card:
    encoded = data.encoded
    name = f"image {mistake.index}"
    if encoded is not None:
        name = encoded.store.key(int(encoded.rows[mistake.index]))
    return _Card(
        _data_uri(data.images[mistake.index]),
        name,
        PurePath(name).name,
        mistake.confidence,
        mistake.label_probability,
    )


def _data_uri(image: NDArray[np.uint8]) -> str:
    stream = io.BytesIO()
    kind = "png" if max(image.shape[:2]) <= _LARGEST_PNG else "jpeg"
    options = {"optimize": True} if kind == "png" else {"quality": _JPEG_QUALITY}
    Image.fromarray(image).save(stream, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
