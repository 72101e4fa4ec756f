"""Figures of how far an artefact lies from the network: right for known answers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delugeserve.errors import ParityError
from delugeserve.verification.parity import compare

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 2, 2, 3), dtype=np.uint8)
PROJECTION = RNG.normal(size=(12, 5)) / 100


def logits_of(images):
    return (images.reshape(len(images), -1) @ PROJECTION).astype(np.float32)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def infer(images):
    logits = logits_of(images)
    return logits, softmax(logits)


REFERENCE = logits_of(IMAGES)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 6, 16])
def test_a_faithful_artefact_is_near_at_every_batch_size(batch_size):
    sizes = []

    def recording(images):
        sizes.append(len(images))
        return infer(images)

    comparison = compare(recording, IMAGES, REFERENCE, batch_size, "fp32")
    assert set(sizes) == {batch_size}
    assert sum(sizes) >= len(IMAGES)
    assert comparison.top1_agreement == comparison.top5_agreement == 1
    assert comparison.max_error < 1e-6
    assert comparison.kl_divergence < 1e-12
    assert comparison.flips == ()


def answering(logits):
    """An artefact with these answers, whatever the images."""
    return lambda images: (logits[: len(images)], softmax(logits[: len(images)]))


def test_every_figure_of_a_known_difference():
    reference = np.array([[5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 9]], np.float32)
    logits = reference.copy()
    logits[0] = [4, 5, 3, 2, 1, 0]  # another first class
    logits[1, 0] = 2.5  # among the first five now, instead of class 1
    found = compare(answering(logits), IMAGES[:2], reference, 2, "bf16")
    assert found.max_error == 2.5
    assert found.worst_image == 1
    assert found.mean_error == pytest.approx((1 + 1 + 2.5) / 12)
    assert found.relative_error == pytest.approx(
        math.sqrt((1 + 1 + 2.5**2) / 12) / reference.std(), rel=1e-6
    )
    assert found.top1_agreement == 0.5
    assert found.top5_agreement == pytest.approx(9 / 10)
    (flip,) = found.flips
    assert (flip.image, flip.expected, flip.found, flip.margin) == (0, 0, 1, 1.0)
    ours, theirs = softmax(logits.astype(float)), softmax(reference.astype(float))
    divergence = (theirs * np.log(theirs / ours)).sum(1).mean()
    assert found.kl_divergence == pytest.approx(divergence)
    assert sum(found.histogram) == logits.size


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(2, 12), st.floats(0, 3))
def test_figures_stay_within_their_bounds(seed, count, classes, noise):
    rng = np.random.default_rng(seed)
    reference = rng.normal(size=(count, classes)).astype(np.float32)
    logits = reference + rng.normal(size=reference.shape).astype(np.float32) * np.float32(noise)
    images = np.zeros((count, 1, 1, 3), np.uint8)
    found = compare(answering(logits), images, reference, count, "bf16")
    assert 0 <= found.mean_error <= found.max_error
    assert 0 <= found.top1_agreement <= 1
    assert len(found.flips) == round((1 - found.top1_agreement) * count)
    # What the logits differ by bounds by how far a decision can be turned.
    assert all(0 <= flip.margin <= 2 * found.max_error * 1.0001 for flip in found.flips)
    assert found.kl_divergence >= 0


def frozen_batch(images):
    return infer(images[:1])


def unnormalised(images):
    return logits_of(images), logits_of(images)


def no_numbers(images):
    logits = np.full((len(images), 5), np.nan, np.float32)
    return logits, logits


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (frozen_batch, r"shape \(1, 5\)"),
        (unnormalised, "not the softmax"),
        (no_numbers, "not the softmax"),
    ],
)
def test_malformed_outputs_are_caught_at_once(broken, message):
    with pytest.raises(ParityError, match=message):
        compare(broken, IMAGES, REFERENCE, 6, "fp32")


def test_rounding_of_nearly_equal_logits_is_no_error():
    images = np.zeros((4, 2, 2, 3), np.uint8)
    reference = np.float32([[0.0, 1e-3], [1e-3, 0.0]] * 2)

    def infer(batch):
        logits = reference[: len(batch)] + np.float32([2e-4, 0])
        powers = np.exp(logits)
        return logits, powers / powers.sum(axis=1, keepdims=True)

    found = compare(infer, images, reference, 4, "bf16")
    assert found.relative_error == pytest.approx(2e-4 / 2**0.5 / 0.1, rel=1e-3)
