"""Metrics: small cases by hand, and laws that hold for any predictions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from delugeserve.evaluation.metrics import (
    Predictions,
    confusion_matrix,
    expected_calibration_error,
    negative_log_likelihood,
    read_predictions,
    reliability,
    top_k_error,
    wilson_interval,
)


def predictions_of(probabilities, labels):
    return read_predictions(np.log(np.array(probabilities, np.float32)), np.array(labels))


# Two right predictions and two wrong ones: the last puts the label third.
BY_HAND = predictions_of(
    [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.4, 0.1], [0.6, 0.3, 0.1]], [0, 1, 1, 2]
)


def test_predictions_by_hand():
    assert BY_HAND.predicted.tolist() == [0, 1, 0, 0]
    assert BY_HAND.ranks.tolist() == [0, 0, 1, 2]
    assert BY_HAND.confidences == pytest.approx([0.7, 0.6, 0.5, 0.6])
    assert np.exp(BY_HAND.log_likelihoods) == pytest.approx([0.7, 0.6, 0.4, 0.1])


def test_metrics_are_rounded():
    third = predictions_of([[0.7, 0.3], [0.7, 0.3], [0.7, 0.3]], [0, 0, 1])
    assert top_k_error(third, 1) == 33.3333
    assert negative_log_likelihood(third) == 0.639108
    assert [one.accuracy for one in reliability(third) if one.num_images] == [0.666667]
    assert all(round(end, 4) == end for end in wilson_interval(100 / 3, 3))


def test_errors_by_hand():
    assert [top_k_error(BY_HAND, k) for k in (1, 2, 3, 5)] == [50, 25, 0, 0]


def test_likelihood_by_hand():
    expected = -(math.log(0.7) + math.log(0.6) + math.log(0.4) + math.log(0.1)) / 4
    assert negative_log_likelihood(BY_HAND) == pytest.approx(expected)


def test_confusion_by_hand():
    assert confusion_matrix(BY_HAND, 3).tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 0]]


def test_calibration_by_hand():
    """Four bins: 0.5 falls into (0.25, 0.5], the others into (0.5, 0.75]."""
    bins = reliability(BY_HAND, num_bins=4)
    assert [(one.low, one.high, one.num_images) for one in bins] == [
        (0, 0.25, 0), (0.25, 0.5, 1), (0.5, 0.75, 3), (0.75, 1, 0),
    ]  # fmt: skip
    assert (bins[0].confidence, bins[0].accuracy) == (None, None)
    assert (bins[1].confidence, bins[1].accuracy) == (pytest.approx(0.5), 0)
    assert (bins[2].confidence, bins[2].accuracy) == (pytest.approx(1.9 / 3), pytest.approx(2 / 3))
    expected = 100 * (1 * 0.5 + 3 * (2 / 3 - 1.9 / 3)) / 4
    assert expected_calibration_error(bins) == pytest.approx(expected)


def test_a_bin_holds_its_upper_edge():
    confidences = np.array([0.25, 0.5, 1.0])
    zeros = np.zeros(3, np.int64)
    bins = reliability(
        Predictions(zeros, zeros, zeros, confidences, np.log(confidences)), num_bins=4
    )
    assert [one.num_images for one in bins] == [1, 1, 0, 1]


@pytest.mark.parametrize(("wrong", "total"), [(15, 100), (1, 10), (1242, 10_000)])
def test_the_interval_is_wilsons(wrong, total):
    """Its ends are the errors from which the measured one is just 1.96 deviations away."""
    for end in wilson_interval(100 * wrong / total, total):
        p = end / 100
        assert abs(wrong / total - p) / math.sqrt(p * (1 - p) / total) == pytest.approx(1.96, 1e-3)


def test_the_interval_of_nothing_wrong_and_of_all_wrong():
    square = 1.959964**2
    assert wilson_interval(0, 10) == pytest.approx((0, 100 * square / (10 + square)))
    assert wilson_interval(100, 10) == pytest.approx((100 * 10 / (10 + square), 100))


def test_a_classifier_that_predictions_everything_alike_is_right_about_one_class():
    predictions = read_predictions(np.zeros((10, 10), np.float32), np.arange(10))
    assert top_k_error(predictions, 1) == 90
    assert top_k_error(predictions, 5) == 50
    assert negative_log_likelihood(predictions) == pytest.approx(math.log(10))


def test_logits_that_float32_would_overflow_on():
    predictions = read_predictions(np.array([[500, 0, -500]], np.float32), np.array([2]))
    assert predictions.confidences.tolist() == [1]
    assert predictions.log_likelihoods.tolist() == [-1000]


@st.composite
def logits_and_labels(draw):
    shape = draw(st.tuples(st.integers(1, 40), st.integers(2, 12)))
    # Few different values, so that equal logits are common.
    values = st.one_of(st.integers(-3, 3), st.floats(-50, 50, width=32))
    logits = draw(arrays.arrays(np.float32, shape, elements=values))
    labels = draw(arrays.arrays(np.int64, shape[0], elements=st.integers(0, shape[1] - 1)))
    return logits, labels


@given(logits_and_labels())
def test_laws(given_):
    logits, labels = given_
    predictions, classes = read_predictions(logits, labels), logits.shape[1]
    confusion = confusion_matrix(predictions, classes)
    assert confusion.sum(axis=1).tolist() == np.bincount(labels, minlength=classes).tolist()
    assert 100 - 100 * np.trace(confusion) / len(labels) == pytest.approx(
        top_k_error(predictions, 1), abs=1e-4
    )
    errors = [top_k_error(predictions, k) for k in range(1, classes + 1)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0
    assert (predictions.confidences >= 0.999 / classes).all()
    assert (predictions.confidences <= 1).all()
    bins = reliability(predictions)
    assert sum(one.num_images for one in bins) == len(labels)
    for one in bins:
        if one.num_images:
            assert one.low - 1e-6 <= one.confidence <= one.high + 1e-6
    assert 0 <= expected_calibration_error(bins) <= 100
    assert negative_log_likelihood(predictions) >= 0
    low, high = wilson_interval(errors[0], len(labels))
    assert 0 <= low <= errors[0] + 1e-4
    assert errors[0] - 1e-4 <= high <= 100


@given(st.integers(1, 49), st.integers(50, 100), st.integers(1, 20))
def test_confidence_that_comes_true_is_perfect_calibration(wrong, total, copies):
    """The confidence of every answer is the fraction of them that is right."""
    labels = np.repeat([1, 0], [wrong, total - wrong]).repeat(copies)
    predicted = np.zeros_like(labels)
    confidences = np.full(len(labels), 1 - wrong / total)
    predictions = Predictions(labels, predicted, labels, confidences, np.log(confidences))
    assert expected_calibration_error(reliability(predictions)) == pytest.approx(0, abs=1e-9)


def test_confidence_that_never_comes_true_is_the_worst_calibration():
    predictions = read_predictions(np.array([[100, 0]] * 5, np.float32), np.ones(5, np.int64))
    assert expected_calibration_error(reliability(predictions)) == pytest.approx(100)
