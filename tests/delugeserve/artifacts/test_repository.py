"""Finding the models of a repository and the versions that it serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from delugeserve.artifacts.publishing import check_target
from delugeserve.artifacts.repository import find_models, list_names, with_companions
from delugeserve.errors import RepositoryError, UnknownNameError

COMPLETE = """
backend: "openvino"
input { name: "image" data_type: TYPE_UINT8 dims: [8, 8, 3] }
output { name: "logits" data_type: TYPE_FP32 dims: [4] }
"""


def add(repository: Path, name: str, config: str = COMPLETE) -> Path:
    (repository / name).mkdir()
    (repository / name / "config.pbtxt").write_text(config)
    return repository / name


def test_only_folders_with_a_configuration_are_models(tmp_path: Path):
    add(tmp_path, "b")
    add(tmp_path, "a", 'platform: "onnxruntime_onnx"')
    add(tmp_path, ".staging")
    (tmp_path / "being_written").mkdir()
    (tmp_path / "README.md").touch()
    found = find_models(tmp_path)
    assert [(model.name, model.backend, model.complete) for model in found] == [
        ("a", "onnxruntime", False),
        ("b", "openvino", True),
    ]
    assert found[1].folder == (tmp_path / "b").resolve()


def test_names_choose_among_them(tmp_path: Path):
    add(tmp_path, "one")
    add(tmp_path, "two")
    assert [model.name for model in find_models(tmp_path, ["two", "two"])] == ["two"]
    with pytest.raises(UnknownNameError) as caught:
        find_models(tmp_path, ["tow"])
    assert (caught.value.name, caught.value.nearest) == ("tow", "two")


@pytest.mark.parametrize(
    ("policy", "version"),
    [
        ("", 10),
        ("version_policy { latest { num_versions: 2 } }", 10),
        ("version_policy { specific { versions: [1, 9] } }", 9),
        ("version_policy { specific { versions: [3] } }", None),
    ],
    ids=["none", "latest", "specific", "missing"],
)
def test_the_version_that_is_served(tmp_path: Path, policy: str, version: int | None):
    folder = add(tmp_path, "model", COMPLETE + policy)
    for name in ("1", "9", "10", "011", "draft"):
        (folder / name).mkdir()
    assert find_models(tmp_path)[0].version == version


@pytest.mark.parametrize("make", [False, True], ids=["missing", "empty"])
def test_without_models_the_error_gives_the_command_to_export_one(tmp_path: Path, make: bool):
    repository = tmp_path / "model_repository"
    if make:
        repository.mkdir()
    with pytest.raises(RepositoryError) as caught:
        find_models(repository)
    assert caught.value.path == repository
    assert "delugeserve export --model delugenet38 --repository " in caught.value.remedy


def test_an_invalid_configuration_is_named_with_its_line(tmp_path: Path):
    add(tmp_path, "bad", "max_batch_size: many")
    with pytest.raises(RepositoryError, match=r"config\.pbtxt.* 1:17"):
        find_models(tmp_path)


def test_unknown_fields_are_accepted(tmp_path: Path):
    add(tmp_path, "new", COMPLETE + "\nfield_of_tomorrow: 3\n")
    assert find_models(tmp_path)[0].complete


def test_names_that_the_server_cannot_load(tmp_path: Path):
    folder = add(tmp_path, "two words")
    with pytest.raises(RepositoryError) as caught:
        find_models(tmp_path)
    assert caught.value.path == folder
    folder.rename(tmp_path / "renamed")
    (tmp_path / "renamed" / "config.pbtxt").write_text('name: "original"')
    with pytest.raises(RepositoryError, match="'original'") as caught:
        find_models(tmp_path)
    assert caught.value.path == tmp_path / "renamed" / "config.pbtxt"


@pytest.mark.parametrize("place", ["model", "model/1", "model/new", "model/1/new"])
def test_a_folder_of_a_model_is_no_repository(tmp_path: Path, place: str):
    """Neither to serve from nor to export into, which would nest one in it."""
    (add(tmp_path, "model") / "1").mkdir()
    for use in (list_names, lambda folder: check_target(folder, "model")):
        with pytest.raises(RepositoryError) as caught:
            use(tmp_path / place)
        assert caught.value.remedy.endswith(f"--repository {tmp_path}")
    check_target(tmp_path, "model")


def companions(repository: Path, version: int = 1, largest: int = 8) -> None:
    for name in ("net", "net_decode", "net_image"):
        owner = "" if name == "net" else "net"
        stated = f'parameters {{ key: "companion_of" value {{ string_value: "{owner}" }} }}'
        size = 8 if name == "net" else largest
        served = 1 if name == "net" else version
        policy = f"version_policy {{ specific {{ versions: {served} }} }} max_batch_size: {size}"
        (add(repository, name, f"{COMPLETE} {policy} {stated if owner else ''}") / "1").mkdir()
        (repository / name / "2").mkdir()


def test_companions_are_served_with_their_model(tmp_path: Path):
    companions(tmp_path)
    assert list_names(tmp_path) == ["net"]
    with pytest.raises(UnknownNameError) as caught:
        find_models(tmp_path, ["net_image"])
    assert "net" in caught.value.remedy
    served = with_companions(find_models(tmp_path))
    assert [(one.name, one.companion_of) for one in served] == [
        ("net", ""),
        ("net_decode", "net"),
        ("net_image", "net"),
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"version": 2}, "serves version 2, not 1"), ({"largest": 16}, "batches up to 16"), ({}, "")],
)
def test_companions_that_do_not_fit_are_left_out(tmp_path: Path, caplog, changes, says):
    companions(tmp_path, **changes)
    if not changes:
        (tmp_path / "net_decode" / "config.pbtxt").unlink()
        says = "net_decode is missing"
    assert [one.name for one in with_companions(find_models(tmp_path))] == ["net"]
    assert says in caplog.text
    assert "delugeserve doctor --repository" in caplog.text
