"""Metrics of a classifier, computed from its predictions on labelled images.

Errors, the interval and the calibration error are in percent; the negative log-likelihood is in
nats. Values are rounded here, where they are computed, so that every output shows the same. Needs
numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15
"""Number of bins of the calibration error in Guo et al., section 4."""

_Z_95 = 1.959964  # 97.5th percentile of the normal distribution
_DIGITS = 4  # of percentages: one image of 50,000 is 0.002 %
_DIGITS_OF_FRACTIONS = 6


@dataclass(frozen=True)
class Predictions:
    """A classifier's predictions on N labelled images.

    Attributes:
        labels: the true classes, int64 ``[N]``.
        predicted: the most likely classes, int64 ``[N]``; the first one on ties.
        ranks: number of classes ranked above the label, int64 ``[N]``; 0 if it is predicted.
        confidences: probability of the predicted class, float64 ``[N]``.
        log_likelihoods: natural logarithm of the label's probability, float64 ``[N]``.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    ranks: NDArray[np.int64]
    confidences: NDArray[np.float64]
    log_likelihoods: NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability diagram: the images whose confidence is in ``(low, high]``.

    Attributes:
        low: lower end, in [0, 1).
        high: upper end.
        num_images: number of images.
        confidence: their mean confidence, in [0, 1]; None without images.
        accuracy: fraction of them that is predicted right; None without images.
    """

    low: float
    high: float
    num_images: int
    confidence: float | None
    accuracy: float | None


def percent(count: int, total: int) -> float:
    """Return ``count`` as a percentage of ``total``, rounded."""
    return round(100 * count / total, _DIGITS)


def read_predictions(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Predictions:
    """Reduce logits to what the metrics need.

    Args:
        logits: float32 ``[N, classes]``; their softmax gives the probabilities.
        labels: int64 ``[N]``.
    """
    rows = np.arange(len(labels))
    predicted = logits.argmax(axis=1)
    of_label = logits[rows, labels, None]
    # On ties the earlier class ranks higher, as it does in argmax: a classifier with constant
    # logits must not count as perfect.
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    ranks = ((logits > of_label) | ((logits == of_label) & earlier)).sum(axis=1)
    below_best = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(below_best).sum(axis=1))
    return Predictions(
        labels,
        predicted,
        ranks,
        np.exp(-log_sum),
        below_best[rows, labels] - log_sum,
    )


def top_k_error(predictions: Predictions, k: int) -> float:
    """Return the percentage of images whose label is not among the ``k`` most likely classes."""
    return percent(int((predictions.ranks >= k).sum()), len(predictions.ranks))


def wilson_interval(error: float, num_images: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of an error (Wilson 1927, "Probable inference").

    Unlike the normal approximation it stays within [0, 100] and does not vanish at an error of 0.

    Args:
        error: the measured error, in percent.
        num_images: number of images that it was measured on.

    Returns:
        Lower and upper end, in percent.
    """
    p, n, z = error / 100, num_images, _Z_95
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5 / (1 + z**2 / n)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return round(100 * low, _DIGITS), round(100 * high, _DIGITS)


def negative_log_likelihood(predictions: Predictions) -> float:
    """Return the mean cross-entropy of the labels, in nats."""
    return round(-float(predictions.log_likelihoods.mean()), _DIGITS_OF_FRACTIONS)


def confusion_matrix(predictions: Predictions, num_classes: int) -> NDArray[np.int64]:
    """Count the images by true and predicted class.

    Returns:
        int64 ``[classes, classes]``; row: the true class, column: the predicted one.
    """
    cells = predictions.labels * num_classes + predictions.predicted
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def reliability(predictions: Predictions, num_bins: int = NUM_BINS) -> tuple[Bin, ...]:
    """Sort the images by confidence into bins of equal width (Guo et al. 2017, equation 1).

    Source: "On Calibration of Modern Neural Networks", arXiv 1706.04599. Bin m of M holds
    confidences in ((m - 1) / M, m / M].
    """
    edges = np.linspace(0, 1, num_bins + 1)
    which = np.digitize(predictions.confidences, edges[1:-1], right=True)
    right = predictions.predicted == predictions.labels
    bins = []
    for index, (low, high) in enumerate(pairwise(edges)):
        inside = which == index
        some = bool(inside.any())
        bins.append(
            Bin(
                round(float(low), _DIGITS_OF_FRACTIONS),
                round(float(high), _DIGITS_OF_FRACTIONS),
                int(inside.sum()),
                _mean(predictions.confidences[inside]) if some else None,
                _mean(right[inside]) if some else None,
            )
        )
    return tuple(bins)


def expected_calibration_error(bins: tuple[Bin, ...]) -> float:
    """Return the mean gap of confidence and accuracy, weighted by images (Guo et al., equation 3).

    Returns:
        Percent; 0 if of the predictions with a confidence of 80 % exactly 80 % are right, and so
        on for every confidence.
    """
    gaps = [
        one.num_images * abs(one.accuracy - one.confidence)
        for one in bins
        if one.accuracy is not None and one.confidence is not None
    ]
    return round(100 * sum(gaps) / sum(one.num_images for one in bins), _DIGITS)


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> float:
    return round(float(values.mean()), _DIGITS_OF_FRACTIONS)
