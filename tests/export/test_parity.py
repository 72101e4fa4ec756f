"""The gate: it lets rounding pass, and nothing else."""

import numpy as np
import pytest

from delugeserve.errors import ParityError
from delugeserve_export.parity import Comparison, compare, require_within_budget

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
def test_a_faithful_artefact_passes_at_every_batch_size(batch_size):
    sizes = []

    def recording(images):
        sizes.append(len(images))
        return infer(images)

    comparison = compare(recording, IMAGES, REFERENCE, batch_size, "fp32")
    assert set(sizes) == {batch_size}
    assert sum(sizes) >= len(IMAGES)
    assert comparison.agreement == 1
    assert comparison.max_error < 1e-6
    require_within_budget(comparison, trained=True)


def shuffled_rows(images):
    logits = logits_of(images)[::-1]
    return logits, softmax(logits)


def swapped_channels(images):
    return infer(images[..., ::-1])


def slightly_brighter(images):
    logits = logits_of(images + 1.0)
    return logits, softmax(logits)


def first_row_repeated(images):
    logits = np.repeat(logits_of(images[:1]), len(images), axis=0)
    return logits, softmax(logits)


@pytest.mark.parametrize(
    "broken", [shuffled_rows, swapped_channels, slightly_brighter, first_row_repeated]
)
def test_a_broken_artefact_is_caught(broken):
    comparison = compare(broken, IMAGES, REFERENCE, 6, "fp32")
    with pytest.raises(ParityError, match="in fp32 at batch size 6"):
        require_within_budget(comparison, trained=True)


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
        (frozen_batch, r"answers 6 images with logits \(1, 5\)"),
        (unnormalised, "not the softmax"),
        (no_numbers, "not the softmax"),
    ],
)
def test_malformed_outputs_are_caught_at_once(broken, message):
    with pytest.raises(ParityError, match=message):
        compare(broken, IMAGES, REFERENCE, 6, "fp32")


def comparison_with(**changes):
    values = {
        "precision": "bf16",
        "batch_size": 1,
        "num_images": 8,
        "max_error": 0.1,
        "relative_error": 0.01,
        "agreement": 1.0,
    }
    return Comparison(**(values | changes))


def test_disagreement_is_caught_even_when_logits_are_near():
    with pytest.raises(ParityError, match=r"agrees with the network on 90\.0%"):
        require_within_budget(comparison_with(agreement=0.9), trained=True)


def test_an_untrained_network_is_held_to_its_errors_not_its_classes():
    require_within_budget(comparison_with(agreement=0.5, relative_error=0.2), trained=False)
    with pytest.raises(ParityError, match="stray"):
        require_within_budget(comparison_with(relative_error=0.9), trained=False)
    with pytest.raises(ParityError, match="stray"):
        require_within_budget(comparison_with(relative_error=0.2), trained=True)
