"""What paths, names and addresses are recognised as."""

import shutil

import pytest

from delugeserve.artifacts.references import (
    EVALUABLE,
    INSPECTABLE,
    Reference,
    recognise,
    resolve_checkpoint,
    resolve_version,
)
from delugeserve.errors import CheckpointError, InvalidReferenceError, RepositoryError
from delugeserve.zoo import find_model

SHIPPED = find_model("delugenet38").weights


@pytest.fixture
def run_folder(tmp_path):
    """The folder of a finished run."""
    folder = tmp_path / "runs" / "first"
    folder.mkdir(parents=True)
    for name in ("run.json", "log.csv", "last.ckpt", "tiny.safetensors"):
        (folder / name).touch()
    return folder


@pytest.fixture
def repository(tmp_path):
    """A repository with one model, of which version 2 is served."""
    repository = tmp_path / "model_repository"
    for number in ("1", "2"):
        (repository / "tiny" / number).mkdir(parents=True)
        (repository / "tiny" / number / "manifest.json").touch()
    (repository / "tiny" / "config.pbtxt").write_text('backend: "openvino"')
    return repository


def refused(text, kinds=EVALUABLE):
    with pytest.raises(InvalidReferenceError) as caught:
        recognise(str(text), kinds)
    assert caught.value.text == str(text)
    return caught.value


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("localhost:8001", "endpoint"),
        ("10.0.0.7:8001", "endpoint"),
        ("[::1]:8001", "endpoint"),
        ("http://localhost:8000", "endpoint"),
        ("grpc://triton.example", "endpoint"),
        ("delugenet146", "weights"),
    ],
)
def test_addresses_and_names(text, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recognise(text) == Reference(kind, text)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.safetensors", "checkpoint"),
        ("x.SafeTensors", "checkpoint"),
        ("x.onnx", "onnx"),
        ("x.plan", "plan"),
    ],
)
def test_files(tmp_path, name, kind):
    (tmp_path / name).touch()
    assert recognise(str(tmp_path / name), INSPECTABLE) == Reference(kind, str(tmp_path / name))


def test_a_run_is_its_checkpoint(run_folder):
    expected = Reference("checkpoint", str(run_folder / "tiny.safetensors"))
    assert recognise(str(run_folder)) == expected


def test_a_run_that_has_not_ended_says_how_to_go_on(run_folder):
    (run_folder / "tiny.safetensors").unlink()
    assert "--resume" in refused(run_folder).remedy


def test_of_several_checkpoints_none_is_guessed(run_folder):
    (run_folder / "other.safetensors").touch()
    remedy = refused(run_folder).remedy
    assert str(run_folder / "tiny.safetensors") in remedy
    assert str(run_folder / "other.safetensors") in remedy


def test_a_training_state_is_not_a_checkpoint(run_folder):
    assert str(run_folder / "tiny.safetensors") in refused(run_folder / "last.ckpt").remedy
    (run_folder / "tiny.safetensors").unlink()
    assert "--resume" in refused(run_folder / "last.ckpt").remedy


def test_versions_models_and_repositories(repository):
    def kind_and_value(path):
        found = recognise(str(path), INSPECTABLE)
        return found.kind, found.value

    model = repository / "tiny"
    assert kind_and_value(model / "1") == ("version", str(model / "1"))
    assert kind_and_value(model) == ("version", str(model / "2"))
    assert kind_and_value(repository) == ("repository", str(repository))
    shutil.rmtree(model / "1")
    shutil.rmtree(model / "2")
    with pytest.raises(RepositoryError):
        recognise(str(model))


def test_a_repository_where_one_model_is_wanted(repository):
    error = refused(repository)
    assert error.found == "repository"
    assert str(repository / "tiny") in error.remedy


def test_nothing_that_is_recognised(tmp_path):
    (tmp_path / "notes.txt").touch()
    for path in (tmp_path, tmp_path / "notes.txt"):
        error = refused(path)
        assert error.found is None
        assert "checkpoint" in error.remedy
        assert "plan" not in error.remedy
        assert "plan" in refused(path, INSPECTABLE).remedy


@pytest.mark.parametrize(("text", "found"), [("localhost:8001", "endpoint")])
def test_something_else_than_is_accepted(text, found):
    assert refused(text, INSPECTABLE).found == found


def test_the_nearest_name_is_suggested(tmp_path):
    assert refused("delugnet38").nearest == "delugenet38"
    (tmp_path / "first.safetensors").touch()
    assert refused(tmp_path / "frist.safetensors").nearest == str(tmp_path / "first.safetensors")
    for hopeless, advice in (
        ("localhost", "localhost:8001"),
        (tmp_path / "nowhere" / "at" / "all.onnx", "path"),
    ):
        error = refused(hopeless)
        assert error.nearest is None
        assert advice in error.remedy


def test_a_name_that_is_also_a_path_is_not_guessed(repository, monkeypatch):
    (repository / "tiny").rename(repository / "delugenet38")
    monkeypatch.chdir(repository)
    remedy = refused("delugenet38").remedy
    assert "./delugenet38" in remedy
    assert str(SHIPPED) in remedy
    assert recognise("./delugenet38") == Reference("version", "delugenet38/2")


def test_the_name_of_a_run_or_an_exported_model(run_folder, repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused("tiny").nearest == "model_repository/tiny"
    assert refused("first").nearest == "runs/first"
    assert refused("tiny", {"checkpoint"}).nearest is None


def test_a_name_that_is_too_long_for_the_file_system():
    refused("x" * 300)


def test_the_checkpoint_of_a_name_a_file_and_a_run(run_folder):
    assert resolve_checkpoint("delugenet38") == SHIPPED
    assert resolve_checkpoint(SHIPPED) == SHIPPED
    assert resolve_checkpoint(run_folder) == run_folder / "tiny.safetensors"
    with pytest.raises(CheckpointError):
        resolve_checkpoint("delugenet146")


@pytest.mark.parametrize("name", ["model_repository/tiny", "x.onnx", "localhost:8001"])
def test_what_is_not_a_checkpoint(repository, tmp_path, name, monkeypatch):
    (tmp_path / "x.onnx").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidReferenceError) as caught:
        resolve_checkpoint(name)
    assert caught.value.found in ("version", "onnx", "endpoint")


def test_the_version_of_a_folder_and_a_name(repository, monkeypatch):
    assert resolve_version(repository / "tiny" / "1") == repository / "tiny" / "1"
    assert resolve_version("tiny", repository) == repository / "tiny" / "2"
    monkeypatch.chdir(repository.parent)
    assert resolve_version("tiny").resolve() == repository / "tiny" / "2"

    (repository.parent / "tiny" / "rose").mkdir(parents=True)  # its pictures
    assert resolve_version("tiny").resolve() == repository / "tiny" / "2"
    with pytest.raises(InvalidReferenceError) as caught:
        recognise("tiny")
    assert caught.value.nearest == "model_repository/tiny"


def test_a_checkpoint_where_a_version_is_wanted(run_folder, tmp_path):
    for text, option in (("delugenet38", "--model"), (str(run_folder), "--checkpoint")):
        with pytest.raises(InvalidReferenceError) as caught:
            resolve_version(text, tmp_path)
        assert f"delugeserve export {option} {text}" in caught.value.remedy
