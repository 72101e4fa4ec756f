"""Figures of merit of a classifier, from its answers about labelled images.

Errors, interval and calibration error are in percent, as the papers give them; the negative
log-likelihood is in nats. Nothing here needs more than numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15
"""Bins of the calibration error in Guo et al., section 4."""

_Z_95 = 1.959964  # 97.5th percentile of the normal distribution


@dataclass(frozen=True)
class Answers:
    """What a classifier answered about each of N labelled images.

    Attributes:
        labels: the true classes, int64 ``[N]``.
        predicted: the classes it holds for likeliest, int64 ``[N]``; of equals the first.
        ranks: how many classes it puts before the label, int64 ``[N]``; 0 is a right answer.
        confidences: the probability it gives to the predicted class, float64 ``[N]``.
        log_likelihoods: natural logarithm of the probability it gives to the label,
            float64 ``[N]``.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    ranks: NDArray[np.int64]
    confidences: NDArray[np.float64]
    log_likelihoods: NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """The images whose confidence lies in one interval of a reliability diagram.

    Attributes:
        low: confidence above which the bin starts, in [0, 1).
        high: confidence with which it ends.
        num_images: images in it.
        confidence: their mean confidence, in [0, 1]; None if there are none.
        accuracy: the fraction of them that is right; None likewise.
    """

    low: float
    high: float
    num_images: int
    confidence: float | None
    accuracy: float | None


def read_answers(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Answers:
    """Take from logits what the figures need.

    Args:
        logits: float32 ``[N, classes]``; their softmax is the probabilities.
        labels: int64 ``[N]``.
    """
    rows = np.arange(len(labels))
    predicted = logits.argmax(axis=1)
    of_label = logits[rows, labels, None]
    # Of equal logits the first class comes first, as it does for argmax: a classifier that answers
    # everything alike is no perfect one.
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    ranks = ((logits > of_label) | ((logits == of_label) & earlier)).sum(axis=1)
    below_best = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(below_best).sum(axis=1))
    return Answers(
        labels,
        predicted,
        ranks,
        np.exp(-log_sum),
        below_best[rows, labels] - log_sum,
    )


def top_k_error(answers: Answers, k: int) -> float:
    """Percent of the images whose label is not among the first ``k`` answers."""
    return 100 * int((answers.ranks >= k).sum()) / len(answers.ranks)


def wilson_interval(error: float, num_images: int) -> tuple[float, float]:
    """95 % confidence interval of an error (Wilson 1927, "Probable inference").

    Unlike the textbook's plus-minus it stays within 0 and 100, and is no point at an error of 0.

    Args:
        error: measured, in percent.
        num_images: on so many images.

    Returns:
        Its lower and upper end, in percent.
    """
    p, n, z = error / 100, num_images, _Z_95
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5 / (1 + z**2 / n)
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


def negative_log_likelihood(answers: Answers) -> float:
    """Mean cross-entropy of the labels, in nats: what training minimises."""
    return -float(answers.log_likelihoods.mean())


def confusion_matrix(answers: Answers, num_classes: int) -> NDArray[np.int64]:
    """Count which class is taken for which.

    Returns:
        int64 ``[classes, classes]``; row: the true class, column: the predicted one.
    """
    cells = answers.labels * num_classes + answers.predicted
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def reliability(answers: Answers, num_bins: int = NUM_BINS) -> tuple[Bin, ...]:
    """Sort the images by confidence into bins of equal width (Guo et al. 2017, equation 1).

    Source: "On Calibration of Modern Neural Networks", arXiv 1706.04599. The m-th of M bins holds
    confidences in ((m - 1) / M, m / M].
    """
    edges = np.linspace(0, 1, num_bins + 1)
    which = np.digitize(answers.confidences, edges[1:-1], right=True)
    right = answers.predicted == answers.labels
    bins = []
    for index, (low, high) in enumerate(pairwise(edges)):
        inside = which == index
        some = bool(inside.any())
        bins.append(
            Bin(
                float(low),
                float(high),
                int(inside.sum()),
                float(answers.confidences[inside].mean()) if some else None,
                float(right[inside].mean()) if some else None,
            )
        )
    return tuple(bins)


def expected_calibration_error(bins: tuple[Bin, ...]) -> float:
    """Mean distance of confidence and accuracy, weighted by images (Guo et al., equation 3).

    Returns:
        Percent: 0 where of the answers given with a confidence of 80 % just 80 % are right, and
        so on for every confidence.
    """
    gaps = [
        interval.num_images * abs(interval.accuracy - interval.confidence)
        for interval in bins
        if interval.accuracy is not None and interval.confidence is not None
    ]
    return 100 * sum(gaps) / sum(interval.num_images for interval in bins)
