"""Evaluate a classifier on labelled images: its errors alone, or a full report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from delugeserve.data.datasets import LabelledImages
from delugeserve.errors import EvaluationError
from delugeserve.evaluation.metrics import (
    Bin,
    Predictions,
    confusion_matrix,
    expected_calibration_error,
    negative_log_likelihood,
    percent,
    read_predictions,
    reliability,
    top_k_error,
    wilson_interval,
)
from delugeserve.evaluation.tta import Tta
from delugeserve.system.memory import keep_freed_memory
from delugeserve.system.progress import NO_PROGRESS, Progress

Classify = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Maps uint8 images ``[N, H, W, 3]`` to float32 logits ``[N, classes]``.

Probabilities are taken as the softmax of the logits. :func:`as_logits` wraps a classifier that
returns probabilities.
"""

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images ``[N, H, W, 3]`` and labels ``[N]``."""

_TOP_K = 5


@dataclass(frozen=True)
class Evaluation:
    """The errors of a classifier, in percent.

    Attributes:
        num_images: number of images.
        top1_error: images whose label is not the most likely class.
        top5_error: images whose label is not among the five most likely classes; None for five
            classes or fewer.
    """

    num_images: int
    top1_error: float
    top5_error: float | None


@dataclass(frozen=True)
class AugmentedEvaluation(Evaluation):
    """The errors of a classifier with test-time augmentation.

    Attributes:
        augmentation: what was averaged.
    """

    augmentation: Tta


@dataclass(frozen=True)
class ClassReport:
    """The errors on the images of one class.

    Attributes:
        name: the class.
        num_images: number of its images.
        error: percent of them that are predicted as another class; None without images.
        mistaken_for: the class that they are most often mistaken for; None if there is none.
        mistaken: percent of them that are mistaken for that class; None if there is none.
    """

    name: str
    num_images: int
    error: float | None
    mistaken_for: str | None
    mistaken: float | None


@dataclass(frozen=True)
class Report(Evaluation):
    """All metrics of a classifier, as :mod:`delugeserve.evaluation.metrics` defines them.

    All but ``tta`` are of a single view of each image.

    Attributes:
        top1_interval: 95 % confidence interval of ``top1_error``, in percent.
        calibration_error: expected calibration error, in percent.
        negative_log_likelihood: mean over the images, in nats.
        classes: the errors by class, in the order of the logits.
        confusion: number of images by true class (row) and predicted class (column).
        bins: the reliability diagram.
        tta: the errors with test-time augmentation; None if it was not asked for.
    """

    top1_interval: tuple[float, float]
    calibration_error: float
    negative_log_likelihood: float
    classes: tuple[ClassReport, ...]
    confusion: tuple[tuple[int, ...], ...]
    bins: tuple[Bin, ...]
    tta: AugmentedEvaluation | None = None


def evaluate(
    classify: Classify,
    data: LabelledImages,
    *,
    batch_size: int = 250,
    progress: Progress = NO_PROGRESS,
) -> Evaluation:
    """Measure top-1 and top-5 error.

    Args:
        classify: the classifier.
        data: images and labels.
        batch_size: images per call.
        progress: counts images.

    Raises:
        EvaluationError: the logits are not finite, or have another number of classes.
    """
    progress.stage("evaluate", len(data))
    num_classes = len(data.class_names)
    predictions, _ = _predict(classify, _cut(data, batch_size), num_classes, progress)
    return _errors(predictions, num_classes)


def evaluate_batches(
    classify: Classify,
    batches: Iterable[Batch],
    num_classes: int,
    *,
    progress: Progress = NO_PROGRESS,
) -> Evaluation:
    """Measure top-1 and top-5 error on images that are read batch by batch.

    Args:
        classify: the classifier.
        batches: images and labels.
        num_classes: number of logits.
        progress: counts images, within the caller's stage.

    Raises:
        EvaluationError: the logits are not finite, or have another number of classes.
    """
    predictions, _ = _predict(classify, batches, num_classes, progress)
    return _errors(predictions, num_classes)


def evaluate_fully(
    classify: Classify,
    data: LabelledImages,
    *,
    batch_size: int = 250,
    tta: Tta | None = None,
    progress: Progress = NO_PROGRESS,
) -> Report:
    """Measure all metrics.

    Args:
        classify: the classifier.
        data: images and labels.
        batch_size: images per call.
        tta: test-time augmentation to measure as well; it doubles the time.
        progress: counts images.

    Raises:
        EvaluationError: the logits are not finite, or have another number of classes.
    """
    predictions, augmented = predict(
        classify, data, batch_size=batch_size, tta=tta, progress=progress
    )
    return summarise(predictions, data.class_names, augmented, tta)


def predict(
    classify: Classify,
    data: LabelledImages,
    *,
    batch_size: int = 250,
    tta: Tta | None = None,
    progress: Progress = NO_PROGRESS,
) -> tuple[Predictions, Predictions | None]:
    """Classify labelled images; arguments and errors are those of :func:`evaluate_fully`.

    Returns:
        The predictions from a single view of each image, and those with test-time augmentation;
        None without one.
    """
    progress.stage("evaluate", len(data))
    batches = _cut(data, batch_size)
    return _predict(classify, batches, len(data.class_names), progress, tta)


def summarise(
    predictions: Predictions,
    class_names: Sequence[str],
    augmented: Predictions | None = None,
    tta: Tta | None = None,
) -> Report:
    """Compute all metrics of predictions.

    Args:
        predictions: from a single view of each image.
        class_names: one per class.
        augmented: with test-time augmentation.
        tta: the augmentation.
    """
    num_classes = len(class_names)
    errors = _errors(predictions, num_classes)
    confusion = confusion_matrix(predictions, num_classes)
    bins = reliability(predictions)
    return Report(
        **vars(errors),
        top1_interval=wilson_interval(errors.top1_error, errors.num_images),
        calibration_error=expected_calibration_error(bins),
        negative_log_likelihood=negative_log_likelihood(predictions),
        classes=_by_class(confusion, class_names),
        confusion=tuple(map(tuple, confusion.tolist())),
        bins=bins,
        tta=AugmentedEvaluation(**vars(_errors(augmented, num_classes)), augmentation=tta)
        if augmented is not None and tta is not None
        else None,
    )


def as_logits(classify: Callable[[NDArray[np.uint8]], NDArray[np.float32]]) -> Classify:
    """Wrap a classifier that returns probabilities: their logarithms are logits."""
    least = np.finfo(np.float32).tiny  # for a probability that was rounded to 0
    return lambda images: np.log(np.maximum(classify(images), least))


def _cut(data: LabelledImages, batch_size: int) -> Iterator[Batch]:
    for start in range(0, len(data), batch_size):
        batch = slice(start, start + batch_size)
        yield data.images[batch], data.labels[batch]


@keep_freed_memory()
def _predict(
    classify: Classify,
    batches: Iterable[Batch],
    num_classes: int,
    progress: Progress,
    tta: Tta | None = None,
) -> tuple[Predictions, Predictions | None]:
    single, augmented = [], []
    for images, labels in batches:
        logits = _classify(classify, images, num_classes)
        single.append(read_predictions(logits, labels))
        if tta:
            mirrored = _classify(classify, np.ascontiguousarray(images[:, :, ::-1]), num_classes)
            augmented.append(read_predictions((logits + mirrored) / 2, labels))
        progress.advance(len(labels))
    return _join(single), _join(augmented) if tta else None


def _join(parts: Sequence[Predictions]) -> Predictions:
    return Predictions(
        *(
            np.concatenate([getattr(part, field.name) for part in parts])
            for field in dataclasses.fields(Predictions)
        )
    )


def _classify(
    classify: Classify, images: NDArray[np.uint8], num_classes: int
) -> NDArray[np.float32]:
    logits = classify(images)
    expected = (len(images), num_classes)
    if logits.shape != expected:
        raise EvaluationError(
            f"The classifier returns logits of shape {list(logits.shape)} "
            f"for {expected[0]} images of {expected[1]} classes.",
            "Give a data set with the classes that it was trained on.",
        )
    # Not infinite either: the softmax would be NaN.
    if not np.isfinite(logits).all():
        raise EvaluationError(
            "The classifier returns logits that are not finite.",
            "Its weights are damaged, or its training diverged: use another checkpoint.",
        )
    return logits


def _errors(predictions: Predictions, num_classes: int) -> Evaluation:
    top5 = top_k_error(predictions, _TOP_K) if num_classes > _TOP_K else None
    return Evaluation(len(predictions.labels), top_k_error(predictions, 1), top5)


def _by_class(confusion: NDArray[np.int64], class_names: Sequence[str]) -> tuple[ClassReport, ...]:
    reports = []
    for index, (name, row) in enumerate(zip(class_names, confusion, strict=True)):
        total, wrong = int(row.sum()), row.copy()
        wrong[index] = 0
        worst = int(wrong.argmax())
        mistaken = bool(wrong.any())
        reports.append(
            ClassReport(
                name,
                total,
                percent(int(wrong.sum()), total) if total else None,
                class_names[worst] if mistaken else None,
                percent(int(wrong[worst]), total) if mistaken else None,
            )
        )
    return tuple(reports)
