"""What is read from exported versions and repositories."""

import shutil

import pytest

from delugeserve.artifacts.versions import read_repository, read_version
from delugeserve.errors import RepositoryError
from delugeserve.zoo import CIFAR10


@pytest.fixture
def repository(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "model_repository")


def test_a_version(repository):
    found = read_version(repository / "tiny" / "1")
    assert (found.model, found.number, found.served) == ("tiny", "1", True)
    assert {file.state for file in found.files} == {"whole"}
    assert {"model.onnx", "labels.txt"} <= {file.name for file in found.files}
    assert found.labels == CIFAR10.class_names
    assert found.config.max_batch_size == 8


def test_files_that_were_changed_removed_or_added(repository):
    artefact = repository / "tiny" / "1" / "model.onnx"
    content = bytearray(artefact.read_bytes())
    content[len(content) // 2] ^= 1
    artefact.write_bytes(content)
    (artefact.parent / "notes.txt").touch()

    def states():
        return {file.name: file.state for file in read_version(artefact.parent).files}

    assert states()["model.onnx"] == "changed"
    assert states()["notes.txt"] is None
    artefact.unlink()
    assert states()["model.onnx"] == "missing"


def test_a_version_that_is_not_served_or_not_in_a_repository(repository, tmp_path):
    shutil.copytree(repository / "tiny" / "1", repository / "tiny" / "2")
    assert read_version(repository / "tiny" / "2").served is False
    alone = shutil.copytree(repository / "tiny" / "1", tmp_path / "alone")
    found = read_version(alone)
    assert (found.served, found.config) == (None, None)


def test_labels_that_are_not_utf8_can_be_printed(repository):
    (repository / "tiny" / "1" / "labels.txt").write_bytes(b"caf\xe9\n")
    assert read_version(repository / "tiny" / "1").labels == ("caf\ufffd",)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"model": 1}', "null"])
def test_a_damaged_manifest_is_refused(repository, text):
    (repository / "tiny" / "1" / "manifest.json").write_text(text)
    with pytest.raises(RepositoryError, match=r"manifest\.json"):
        read_version(repository / "tiny" / "1")


def test_a_repository_with_faults(repository):
    shutil.copytree(repository / "tiny" / "1", repository / "tiny" / "3")
    (repository / "broken").mkdir()
    (repository / "broken" / "config.pbtxt").write_text("max_batch_size: many")
    broken, tiny = read_repository(repository)
    assert (broken.name, broken.version, broken.manifest) == ("broken", None, None)
    assert broken.fault
    assert (tiny.version, tiny.others, tiny.fault) == (1, (3,), None)
    assert tiny.manifest.trained
    (repository / "tiny" / "1" / "manifest.json").unlink()
    assert "manifest.json" in read_repository(repository)[1].fault
    shutil.rmtree(repository / "tiny" / "1")
    assert "missing" in read_repository(repository)[1].fault
