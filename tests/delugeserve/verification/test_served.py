"""A server that offers probabilities alone is compared with the network's logits all the same."""

import numpy as np
import pytest

from delugeserve.verification.evidence import Evidence
from delugeserve.verification.gate import verify
from delugeserve.verification.served import centred_evidence, centred_logits, encode_exactly
from delugeserve_client.preprocessing import Preprocessing

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(3, 4, (9, 10)).astype(np.float32)
# An image's first pixel is its row in LOGITS.
IMAGES = np.repeat(np.arange(9, dtype=np.uint8), 12).reshape(9, 2, 2, 3)
EVIDENCE = Evidence(IMAGES, LOGITS, "9 images")


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


def check(change=lambda logits: logits):
    def infer(images):
        probabilities = softmax(change(LOGITS)[images[:, 0, 0, 0]])
        return centred_logits(probabilities), probabilities

    return verify(
        {"fp32": infer}, centred_evidence(EVIDENCE), precision="fp32", sizes=[1, 4], trained=True
    )


def test_the_constant_that_softmax_forgets_does_not_count():
    assert check().status == "passed"
    assert check(lambda logits: logits + 5).status == "passed"


@pytest.mark.parametrize(
    "change", [lambda logits: 1.01 * logits, lambda logits: logits[:, ::-1], np.roll]
)
def test_other_logits_are_found(change):
    found = check((lambda logits: np.roll(logits, 1, axis=0)) if change is np.roll else change)
    assert found.status == "failed"
    assert found.failures[0].name == "logits, fp32 at batch size 1"


def test_probabilities_of_zero():
    logits = np.array([[200.0, 0.0, 100.0]], np.float32)
    evidence = centred_evidence(Evidence(IMAGES[:1], logits, ""))
    np.testing.assert_allclose(centred_logits(softmax(logits)), evidence.logits, rtol=1e-6)
    assert np.isfinite(evidence.logits).all()


@pytest.mark.parametrize("settings", [(32, 32, 32), (24, 24, 30), (24, 24, 30, "bilinear")])
def test_encoded_images_become_the_very_pixels(settings):
    images = RNG.integers(0, 256, (3, *settings[:2], 3), np.uint8)
    preprocessing = Preprocessing(*settings)
    files = encode_exactly(images, preprocessing)
    np.testing.assert_array_equal([preprocessing(file) for file in files], images)


def test_a_crop_between_pixels_has_no_such_files():
    images = np.zeros((1, 24, 24, 3), np.uint8)
    assert encode_exactly(images, Preprocessing(24, 24, 27)) is None
