"""What is kept to verify a version again: no image of the user's, unless the user asked for it."""

import numpy as np
import pytest

from delugeserve.artifacts.manifest import EVIDENCE
from delugeserve.artifacts.records import EvidenceRecord
from delugeserve.errors import DatasetError, RepositoryError
from delugeserve.verification.evidence import (
    DataEvidence,
    Evidence,
    StoredEvidence,
    hash_images,
    join,
    read_evidence,
)

RNG = np.random.default_rng(0)
PHOTOS = RNG.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
PRIVATE = RNG.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


def logits_of(images):
    return images.reshape(len(images), -1)[:, :4].astype(np.float32)


PROBE = Evidence(PHOTOS, logits_of(PHOTOS), "3 crops of photographs")


def stored(*, kept):
    images = PRIVATE if kept else None
    data = DataEvidence(hash_images(PRIVATE), logits_of(PRIVATE), images, "test images of pets")
    return StoredEvidence(PROBE, data)


def assert_equal(found, expected):
    assert found.description == expected.description
    np.testing.assert_array_equal(found.images, expected.images)
    np.testing.assert_array_equal(found.logits, expected.logits)


@pytest.mark.parametrize("evidence", [StoredEvidence(PROBE), stored(kept=False), stored(kept=True)])
def test_it_is_read_back_equal(tmp_path, evidence):
    evidence.write(tmp_path)
    found = read_evidence(tmp_path, evidence.record)
    assert found.record == evidence.record
    assert_equal(found.select(), evidence.select())
    assert_equal(found.probe, PROBE)


def test_private_images_are_not_in_the_file(tmp_path):
    stored(kept=False).write(tmp_path)
    with np.load(tmp_path / EVIDENCE) as file:
        assert set(file.files) == {"images", "logits", "data_sha256", "data_logits"}
        np.testing.assert_array_equal(file["images"], PHOTOS)
    assert stored(kept=False).record == EvidenceRecord(3, "test images of pets", 5, False)
    assert_equal(stored(kept=False).select(), PROBE)


def test_kept_images_are_used_without_being_given(tmp_path):
    stored(kept=True).write(tmp_path)
    found = read_evidence(tmp_path, stored(kept=True).record).select()
    expected = Evidence(PRIVATE, logits_of(PRIVATE), "5 test images of pets")
    assert_equal(found, join(expected, PROBE))


def test_images_are_found_by_their_hash_in_any_order():
    others = RNG.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    given = np.concatenate([others, PRIVATE[::-1]])
    found = stored(kept=False).select(given)
    assert found.description == "5 test images of pets and 3 crops of photographs"
    np.testing.assert_array_equal(found.images, np.concatenate([PRIVATE, PHOTOS]))
    np.testing.assert_array_equal(found.logits, logits_of(found.images))


def test_some_of_the_images_are_counted():
    found = stored(kept=False).select(PRIVATE[3:])
    assert found.description == "2 of 5 test images of pets and 3 crops of photographs"
    np.testing.assert_array_equal(found.logits, logits_of(found.images))


@pytest.mark.parametrize("evidence", [stored(kept=False), StoredEvidence(PROBE)])
def test_images_that_it_does_not_know_are_refused(evidence):
    changed = PRIVATE.copy()
    changed[..., 0] ^= 1
    with pytest.raises(DatasetError, match="None of the 5 images"):
        evidence.select(changed)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", None])
def test_a_damaged_file_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / EVIDENCE).write_bytes(content)
    with pytest.raises(RepositoryError, match=EVIDENCE):
        read_evidence(tmp_path, StoredEvidence(PROBE).record)


@pytest.mark.parametrize(
    "record",
    [
        EvidenceRecord(4),
        EvidenceRecord(3, "test images of pets", 5),
        EvidenceRecord(3, "test images of pets", 5, True),
    ],
)
def test_a_file_that_differs_from_the_manifest_is_refused(tmp_path, record):
    StoredEvidence(PROBE).write(tmp_path)
    with pytest.raises(RepositoryError, match=EVIDENCE):
        read_evidence(tmp_path, record)
