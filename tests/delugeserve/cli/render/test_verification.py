"""What is printed about a verification: measured, required, and which predictions changed."""

import dataclasses

import pytest

from delugeserve.artifacts.records import Check, Comparison, EvidenceRecord, Flip, Verification
from delugeserve.cli.render.verification import _name_image, print_verification, print_verifications
from delugeserve.verification.gate import _invariance_check, check_precision
from delugeserve.verification.invariance import Invariance

ON = "100 test images of pets and 16 crops of photographs"


def compared(precision="int8", flips=(), **changes):
    values = {
        "batch_size": 7, "num_images": 116, "max_error": 0.4, "worst_image": 3, "mean_error": 0.01,
        "relative_error": 0.026, "top1_agreement": 0.5, "top5_agreement": 0.9, "histogram": (),
        "kl_divergence": 1e-4, "allowed_error": 0.15, "required_agreement": 0.97,
        "close_margin": 0.3,
    }  # fmt: skip
    return Comparison(precision=precision, flips=tuple(flips), **(values | changes))


@pytest.fixture
def manifest(make_manifest):
    flips = (Flip(110, 1, 2, "cat", "dog", 0.5), Flip(99, 1, 2, "cat", "[dog]", 0.2))
    checks = (
        Check("logits", True, "error 0.026", "at most 0.15", compared=True),
        Check("equal images", True, "difference 0", "at most 0.003"),
    )
    verification = Verification("passed", ON, "here", checks, (compared(flips=flips),))
    evidence = EvidenceRecord(16, "test images of pets", 100)
    return make_manifest(verification=verification, evidence=evidence)


def test_a_row_shows_what_is_required_and_how_many_images_agree(manifest, capsys):
    print_verification(manifest)
    out, err = capsys.readouterr()
    (row,) = (line for line in out.splitlines() if line.startswith("int8"))
    for cell in ("0.026", "<= 0.15", "114 of 116 (1 close)", ">= 97%"):
        assert cell in row
    assert "at most 0.003" in out, "what the other check requires"
    assert "passed all 2 checks" in out
    assert "0.3" in err, "the margin that counts as close"


def test_a_changed_prediction_names_the_image_and_both_classes(manifest, capsys):
    print_verification(manifest)
    out, _ = capsys.readouterr()
    assert "crop 10: cat -> dog, margin 0.5" in out
    assert "test image 99: cat -> [dog], margin 0.2" in out


def test_an_untrained_network_has_no_agreement_to_require(manifest, capsys):
    row = compared(required_agreement=None, close_margin=None)
    verification = dataclasses.replace(manifest.verification, comparisons=(row,))
    print_verification(dataclasses.replace(manifest, verification=verification))
    out, err = capsys.readouterr()
    assert "116 of 116" in out
    assert "close" not in out + err


@pytest.mark.parametrize("passed", [True, False])
def test_the_longest_checks_fit_100_columns(manifest, capsys, passed):
    found = 1.2e-5 if passed else 0.51
    checks = (
        check_precision("int8", {"fp32": 149, "int8": 149 if passed else 0}, 149),
        _invariance_check(Invariance("shuffled images", 256, True, found, 240), 0.15),
        Check(
            "ONNX graph in int8, by ONNX Runtime", passed,
            "RMS error 0.0051, same top-1 99.6%", "RMS error at most 0.15", "image 240",
        ),
    )  # fmt: skip
    verification = dataclasses.replace(
        manifest.verification, checks=checks, status="passed" if passed else "failed"
    )
    print_verification(dataclasses.replace(manifest, verification=verification))
    out, err = capsys.readouterr()
    assert max(map(len, (out + err).splitlines())) <= 100
    assert ("worst case of ONNX graph in int8, by ONNX Runtime: image 240" in out) != passed


def test_both_verifications_are_shown(manifest, capsys):
    newest = dataclasses.replace(
        manifest.verification,
        images="16 crops of photographs",
        machine="there",
        date="2026-11-27T22:00:18+00:00",
    )
    print_verifications(manifest.verified_again(newest))
    out, err = capsys.readouterr()
    assert out.index(ON) < out.index("2026-11-27 22:00:18 UTC (there)")
    assert out.count("passed all 2 checks") == 2
    assert err.count("RMS error") == 1, "one legend"


@pytest.mark.parametrize(
    ("index", "count", "data", "name"),
    [
        (3, 16, None, "crop 3"),
        (3, 16, "test images of pets", "crop 3"),
        (99, 116, "test images of pets", "test image 99"),
        (100, 116, "test images of pets", "crop 0"),
        (3, 8, "test images of pets", "image 3"),
    ],
)
def test_an_image_is_numbered_in_its_own_set(index, count, data, name):
    assert _name_image(index, count, EvidenceRecord(16, data, 100 if data else 0)) == name
