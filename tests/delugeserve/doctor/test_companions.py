"""What doctor says of the models that take encoded images."""

import shutil

import pytest

from delugeserve.doctor.repository import check_repository


@pytest.fixture
def stored(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "model_repository")


@pytest.fixture
def check(stored):
    """Change a model's configuration, and return the texts of what is wrong."""

    def check(name="tiny", old="", new=""):
        path = stored / name / "config.pbtxt"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        return [
            f"{one.subject}: {one.text}" for one in check_repository(stored) if one.status != "ok"
        ]

    return check


def test_companions_are_part_of_the_model(stored, check):
    assert check() == []
    assert [finding.subject for finding in check_repository(stored)] == ["tiny"]


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("tiny_image", "model_version: 1", "model_version: 2", "runs version 2 of its models"),
        ("tiny_decode", "versions: 1", "versions: 7", "serves version None, but version 1"),
        ("tiny_image", "max_batch_size: 8", "max_batch_size: 9", "up to 9, but tiny up to 8"),
        ("tiny_decode", 'backend: "python"', 'backend: "dali"', "no server here has"),
        ("tiny_decode", 'key: "preprocessing"', 'key: "other"', "in another way (None)"),
    ],
)
def test_what_does_not_belong_together(check, name, old, new, says):
    (found,) = check(name, old, new)
    assert found.startswith("tiny: ")
    assert name in found
    assert says in found


def test_a_model_for_another_preprocessing(check):
    size = 'key: "resize_size"\n  value {\n    string_value: "'
    (found,) = check("tiny", f'{size}32"', f'{size}36"')
    assert "exported for another preprocessing" in found


def test_a_missing_companion_and_one_without_its_model(stored, check):
    shutil.rmtree(stored / "tiny_decode")
    (found,) = check()
    assert found.startswith("tiny: tiny_decode is missing")
    shutil.rmtree(stored / "tiny")
    shutil.copytree(stored / "tiny_image", stored / "other")
    text = (stored / "other" / "config.pbtxt").read_text()
    (stored / "other" / "config.pbtxt").write_text(text.replace("tiny_image", "other"))
    assert check("tiny_image")[0].startswith("tiny_image: it belongs to the model 'tiny'")
