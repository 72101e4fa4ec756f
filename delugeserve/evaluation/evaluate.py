"""How well a classifier does on labelled images: the errors alone, or a whole report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from delugeserve.data.datasets import LabelledImages
from delugeserve.errors import EvaluationError
from delugeserve.evaluation.metrics import (
    Answers,
    Bin,
    confusion_matrix,
    expected_calibration_error,
    negative_log_likelihood,
    read_answers,
    reliability,
    top_k_error,
    wilson_interval,
)
from delugeserve.system.memory import keep_freed_memory

Classify = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Maps uint8 images ``[N, H, W, 3]`` to logits ``[N, classes]``.

The probabilities are their softmax. A classifier that gives probabilities itself would seem far too
unsure of everything; :func:`as_logits` makes logits of them.
"""

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images ``[N, H, W, 3]`` and labels ``[N]``."""


@dataclass(frozen=True)
class Evaluation:
    """How often a classifier is wrong; small enough to lie in a checkpoint.

    Attributes:
        num_images: images it was asked about.
        top1_error: percent of them whose label is not the first answer.
        top5_error: percent of them whose label is not among the first five answers; None for five
            classes or fewer, where every label is.
    """

    num_images: int
    top1_error: float
    top5_error: float | None


@dataclass(frozen=True)
class ClassReport:
    """How a classifier does on the images of one class.

    Attributes:
        name: of the class.
        num_images: images of it.
        error: percent of them that are taken for another class; None if there are no images.
        mistaken_for: the class they are most often taken for instead; None if for none.
        mistaken: percent of them that are taken for that one.
    """

    name: str
    num_images: int
    error: float | None
    mistaken_for: str | None
    mistaken: float | None


@dataclass(frozen=True)
class Report(Evaluation):
    """Everything that is measured of a classifier; :mod:`delugeserve.evaluation.metrics` says how.

    Attributes:
        top1_interval: 95 % confidence interval of ``top1_error``, in percent.
        calibration_error: expected calibration error, in percent.
        negative_log_likelihood: mean over the images, in nats.
        classes: what there is to say of each class, in their order.
        confusion: images by true class (row) and predicted class (column).
        bins: the reliability diagram.
    """

    top1_interval: tuple[float, float]
    calibration_error: float
    negative_log_likelihood: float
    classes: tuple[ClassReport, ...]
    confusion: tuple[tuple[int, ...], ...]
    bins: tuple[Bin, ...]


def evaluate(
    classify: Classify,
    data: LabelledImages,
    *,
    batch_size: int = 250,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Measure top-1 and top-5 error.

    Args:
        classify: the classifier.
        data: images and labels.
        batch_size: images in one call.
        on_progress: told the number of images after each call.

    Raises:
        EvaluationError: an answer is no number, or has another number of classes.
    """
    num_classes = len(data.class_names)
    return _errors(_ask(classify, _cut(data, batch_size), num_classes, on_progress), num_classes)


def evaluate_batches(classify: Classify, batches: Iterable[Batch], num_classes: int) -> Evaluation:
    """Measure the same on images that need not all lie in memory; errors as above."""
    return _errors(_ask(classify, batches, num_classes, lambda _: None), num_classes)


def evaluate_fully(
    classify: Classify,
    data: LabelledImages,
    *,
    batch_size: int = 250,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Report:
    """Measure all there is to measure; arguments and errors are those of :func:`evaluate`."""
    answers = _ask(classify, _cut(data, batch_size), len(data.class_names), on_progress)
    errors = _errors(answers, len(data.class_names))
    confusion = confusion_matrix(answers, len(data.class_names))
    bins = reliability(answers)
    return Report(
        **dataclasses.asdict(errors),
        top1_interval=wilson_interval(errors.top1_error, errors.num_images),
        calibration_error=expected_calibration_error(bins),
        negative_log_likelihood=negative_log_likelihood(answers),
        classes=_by_class(confusion, data.class_names),
        confusion=tuple(map(tuple, confusion.tolist())),
        bins=bins,
    )


def as_logits(classify: Callable[[NDArray[np.uint8]], NDArray[np.float32]]) -> Classify:
    """Make a :data:`Classify` of a classifier that gives probabilities.

    Their logarithms are logits: the softmax of them is the probabilities again.
    """
    least = np.finfo(np.float32).tiny  # for a probability that was rounded to 0
    return lambda images: np.log(np.maximum(classify(images), least))


def _cut(data: LabelledImages, batch_size: int) -> Iterator[Batch]:
    for start in range(0, len(data), batch_size):
        batch = slice(start, start + batch_size)
        yield data.images[batch], data.labels[batch]


@keep_freed_memory()
def _ask(
    classify: Classify,
    batches: Iterable[Batch],
    num_classes: int,
    on_progress: Callable[[int], None],
) -> Answers:
    parts = []
    for images, labels in batches:
        logits = classify(images)
        _check(logits, (len(labels), num_classes))
        parts.append(read_answers(logits, labels))
        on_progress(len(labels))
    return Answers(
        *(
            np.concatenate([getattr(part, field.name) for part in parts])
            for field in dataclasses.fields(Answers)
        )
    )


def _check(logits: NDArray[np.float32], shape: tuple[int, int]) -> None:
    if logits.shape != shape:
        raise EvaluationError(
            f"The classifier answers {shape[0]} images of {shape[1]} classes in the shape "
            f"{list(logits.shape)}.",
            "Evaluate it on the data set that it was made for.",
        )
    # Infinities too: their softmax is no number.
    if not np.isfinite(logits).all():
        raise EvaluationError(
            "The classifier gives answers that are no finite numbers.",
            "Train or export it again; its weights are damaged or have diverged.",
        )


def _errors(answers: Answers, num_classes: int) -> Evaluation:
    top5 = top_k_error(answers, 5) if num_classes > 5 else None
    return Evaluation(len(answers.labels), top_k_error(answers, 1), top5)


def _by_class(
    confusion: NDArray[np.int64], class_names: tuple[str, ...]
) -> tuple[ClassReport, ...]:
    reports = []
    for index, (name, row) in enumerate(zip(class_names, confusion, strict=True)):
        total, wrong = int(row.sum()), row.copy()
        wrong[index] = 0
        worst = int(wrong.argmax())
        some = bool(wrong.any())
        reports.append(
            ClassReport(
                name,
                total,
                100 * float(wrong.sum()) / total if total else None,
                class_names[worst] if some else None,
                100 * float(wrong[worst]) / total if some else None,
            )
        )
    return tuple(reports)
