"""Frozen copies of what a repository serves."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from delugeserve.errors import RepositoryError, UnknownNameError
from delugeserve.serving.fleet.release import look, take_wish

CONFIG = """
backend: "onnxruntime"
max_batch_size: 4
input {{ name: "image" data_type: TYPE_UINT8 dims: [8, 8, 3] }}
output {{ name: "logits" data_type: TYPE_FP32 dims: [2] label_filename: "labels.txt" }}
version_policy {{ {policy} }}
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for version in (1, 2, 3):
        folder = tmp_path / "repo" / "tiny" / str(version)
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_text(f"version {version}")
    write(tmp_path / "repo", "specific { versions: 2 }")
    (tmp_path / "repo" / "tiny" / "labels.txt").write_text("ant\nbee\n")
    return tmp_path / "repo"


def write(repository: Path, policy: str) -> None:
    (repository / "tiny" / "config.pbtxt").write_text(CONFIG.format(policy=policy))


def take(repository: Path, names=None):
    return take_wish(repository, names).release


def test_a_release_is_not_reached_by_later_changes(repository, tmp_path):
    release = take(repository)
    assert release.versions == {"tiny": 2}
    before = (repository / "tiny" / "config.pbtxt").read_text()
    write(repository, "specific { versions: 3 }")
    (repository / "tiny" / "labels.txt").write_text("cat\ndog\n")
    placed = tmp_path / "placed"
    placed.mkdir()
    release.place(placed)
    assert (placed / "tiny" / "config.pbtxt").read_text() == before
    assert (placed / "tiny" / "labels.txt").read_text() == "ant\nbee\n"
    assert (placed / "tiny" / "2" / "model.onnx").read_text() == "version 2"
    assert sorted(path.name for path in (placed / "tiny").iterdir()) == [
        "2",
        "config.pbtxt",
        "labels.txt",
    ]


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("specific { versions: [1, 3] }", ["1", "3"]),
        ("all {}", ["1", "2", "3"]),
        ("latest { num_versions: 2 }", ["2", "3"]),
        ("", ["3"]),
    ],
)
def test_the_versions_of_every_policy_are_linked(repository, policy, served):
    write(repository, policy)
    (model,) = take(repository).models
    assert sorted(model.links) == served


def test_the_id_tells_what_is_served_and_nothing_else(repository):
    first = take(repository).id
    (repository / "tiny" / "4").mkdir()
    (repository / "tiny" / "config.pbtxt.before-2").write_text("old")
    (repository / ".hidden").mkdir()
    assert take(repository).id == first
    changed = {first}
    for change in (
        lambda: (repository / "tiny" / "labels.txt").write_text("cat\ndog\n"),
        lambda: (repository / "tiny" / "2" / "model.onnx").write_text("another"),
        lambda: write(repository, "specific { versions: 3 }"),
        lambda: shutil.copytree(repository / "tiny", repository / "small"),
    ):
        change()
        changed.add(take(repository).id)
    assert len(changed) == 5
    write(repository, "specific { versions: 2 }")


def test_a_repeated_verification_is_no_change(repository, make_manifest):
    folder = repository / "tiny" / "2"
    manifest = make_manifest()
    manifest.write(folder)
    first = take(repository).id
    make_manifest(trained=False).write(folder)
    assert take(repository).id == first


def test_a_look_notices_what_may_change_a_release(repository):
    seen = look(repository)
    assert look(repository) == seen
    (repository / "tiny" / "2" / "manifest.json").write_text("{}")
    assert look(repository) == seen
    write(repository, "specific { versions: 3 }")
    assert look(repository) != seen
    seen = look(repository, ["other"])
    write(repository, "specific { versions: 1 }")
    assert look(repository, ["other"]) == seen


@pytest.mark.parametrize(
    "text", ["{", '{"model": "tiny", "version": 9, "share": 0.5}'], ids=["damaged", "no version"]
)
def test_a_canary_that_cannot_be_taken_keeps_nothing_else_back(repository, caplog, text):
    expected = take_wish(repository)
    (repository / ".canary.json").write_text(text)
    assert take_wish(repository) == expected
    assert "The canary is not served" in caplog.text


def test_a_canary_is_another_release_of_the_same_repository(repository):
    text = '{"model": "tiny", "version": 3, "share": 0.25}'
    (repository / ".canary.json").write_text(text)
    wish = take_wish(repository)
    assert (wish.release.versions, wish.share) == ({"tiny": 2}, 0.25)
    assert wish.canary.versions == {"tiny": 3}
    (model,) = wish.canary.models
    assert model.links == ("3",)
    # What it would be as a release of its own, so that a promoted canary goes on.
    (repository / ".canary.json").unlink()
    (repository / "tiny" / "config.pbtxt").write_bytes(model.files["config.pbtxt"])
    assert take_wish(repository).release.id == wish.canary.id


def test_what_cannot_be_taken(repository, tmp_path):
    with pytest.raises(RepositoryError):
        take(tmp_path / "nowhere")
    with pytest.raises(UnknownNameError):
        take(repository, ["tyni"])
    assert not (tmp_path / "nowhere").exists()


def test_a_canary_without_companions_leaves_out_those_of_the_others(tmp_path, add_version):
    add_version(tmp_path, 1)
    add_version(tmp_path, 2, companions=True)
    (tmp_path / ".canary.json").write_text('{"model": "net", "version": 1, "share": 0.1}')
    wish = take_wish(tmp_path)
    assert [one.name for one in wish.release.models] == ["net", "net_decode", "net_image"]
    assert [(one.name, one.stored.version) for one in wish.canary.models] == [("net", 1)]
