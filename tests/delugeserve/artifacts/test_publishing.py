"""Publishing: loadable at every moment."""

import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from delugeserve.artifacts import publishing as triton_repository
from delugeserve.artifacts.image_models import stage_companions
from delugeserve.artifacts.labels import write_labels
from delugeserve.artifacts.model_config import InstanceGroup, classifier_config, read_config
from delugeserve.artifacts.publishing import check_target, free_version, publish, staging
from delugeserve.artifacts.serving_records import GENERATED, record_generated
from delugeserve.artifacts.transaction import lock_repository
from delugeserve.errors import ModelNameError, OtherClassesError, RepositoryError
from delugeserve.zoo import MODELS
from delugeserve_client.preprocessing import Preprocessing

CONFIG = classifier_config(
    name="net",
    backend="onnxruntime",
    artefact="model.onnx",
    max_batch_size=8,
    image_size=32,
    num_classes=2,
    instance_group=InstanceGroup(kind="KIND_CPU"),
    parameters={"resize_size": "32"},
)


SMALL = Preprocessing(32, 32, 32)


def publish_all(
    repository,
    content="weights",
    classes=("cat", "dog"),
    config=CONFIG,
    manifest='{"schema_version": 0}',
    companions=False,
    **options,
):
    with staging(repository) as workspace:
        staged = workspace / "version"
        staged.mkdir()
        (staged / "model.onnx").write_text(content)
        write_labels(staged, classes)
        record_generated(staged, config)
        (staged / "manifest.json").write_text(manifest)
        beside = stage_companions(config, SMALL, classes, workspace) if companions else []
        return publish(staged, repository, config, companions=beside, **options)


def publish_one(repository, content="weights"):
    return publish_all(repository, content).folder


def served_version(repository):
    """The version a server would load, checked to be whole."""
    config = read_config(repository / "net")
    (version,) = config.versions
    assert (repository / "net" / str(version) / config.artefact).is_file()
    for path in config.labels.values():
        assert (repository / "net" / path).read_text() == "cat\ndog\n"
    return version


def leftovers(repository):
    return [path.name for path in repository.parent.iterdir() if path != repository]


def test_versions_count_up_and_the_newest_is_served(tmp_path):
    repository = tmp_path / "repository"
    assert publish_one(repository, "one") == repository / "net/1"
    assert served_version(repository) == 1
    assert publish_one(repository, "two") == repository / "net/2"
    assert served_version(repository) == 2
    assert (repository / "net/1/model.onnx").read_text() == "one", "the old version stays"
    assert leftovers(repository) == []


def test_the_next_version_passes_over_gaps_and_strangers(tmp_path):
    for name in ("1", "7", "notes", ".hidden"):
        (tmp_path / name).mkdir()
    assert free_version(tmp_path) == 8
    assert free_version(tmp_path / "none") == 1


@pytest.mark.parametrize(("wanted", "problem"), [(7, "version 7"), (0, "--version is 0")])
def test_a_version_that_is_taken_or_none_is_refused(tmp_path, wanted, problem):
    (tmp_path / "7").mkdir()
    assert free_version(tmp_path, 3) == 3
    with pytest.raises(RepositoryError, match=problem) as caught:
        free_version(tmp_path, wanted)
    assert "--version 8" in caught.value.remedy


def repository_of(tmp_path, kind):
    repository = tmp_path / "repository"
    if kind == "existing":
        publish_one(repository, "old")
    return repository


@pytest.mark.parametrize("kind", ["existing", "new"])
def test_a_kill_at_any_step_leaves_a_loadable_repository(tmp_path, kind, steps):
    for fatal in itertools.count(1):
        repository = repository_of(tmp_path / str(fatal), kind)
        with steps(fatal) as killed, contextlib.suppress(steps.Killed):
            publish_one(repository, "new")
        if not killed.dead:
            break
        if kind == "existing":
            assert served_version(repository) in (1, 2)
        elif (repository / "net").exists():  # a new model appears whole or not at all
            assert served_version(repository) == 1
        number = 2 if kind == "existing" else 1
        whole = (repository / ".transaction.json").exists()
        with lock_repository(repository):  # finishes what was committed
            assert not whole or served_version(repository) == number
        assert publish_one(repository).parent == repository / "net"
        served_version(repository)
        assert leftovers(repository) == []
    assert fatal > 4


def test_a_full_disk_publishes_nothing(tmp_path, monkeypatch):
    repository = tmp_path / "repository"
    publish_one(repository)

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(triton_repository, "_flush", full)
    with pytest.raises(RepositoryError, match="No space left on device"):
        publish_one(repository)
    monkeypatch.undo()
    assert served_version(repository) == 1
    assert not (repository / "net/2").exists()
    assert leftovers(repository) == []


def test_a_repository_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryError, match="cannot be written"):
        publish_one(tmp_path / "file" / "repository")


def test_what_a_killed_export_left_is_swept_and_what_a_running_one_uses_is_not(tmp_path):
    repository = tmp_path / "repository"
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from delugeserve.artifacts.publishing import staging\n"
        "with staging(Path(sys.argv[1])) as folder:\n"
        "    print(folder, flush=True)\n"
        "    sys.stdin.read()\n"
        "    os._exit(9)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, repository],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        folder = Path(other.stdout.readline().strip())
        publish_one(repository)
        assert folder.is_dir()
    publish_one(repository)
    assert not folder.exists()


@pytest.mark.skipif(not Path("/dev/shm").is_mount(), reason="needs a disk mounted at /dev/shm")
def test_a_mounted_repository_is_staged_on_its_own_disk():
    repository = Path("/dev/shm")
    with staging(repository) as workspace:
        assert workspace.name.startswith(".")
        assert workspace.stat().st_dev == repository.stat().st_dev
    assert not workspace.exists()


def test_a_folder_that_lost_its_configuration_gets_one(tmp_path):
    publish_one(tmp_path)
    (tmp_path / "net/config.pbtxt").unlink()
    publish_one(tmp_path)
    assert served_version(tmp_path) == 2


def served_together(repository):
    """The version that a model and its companions serve, checked to be whole and the same."""
    version = served_version(repository)
    for name in ("net_decode", "net_image"):
        config = read_config(repository / name)
        assert config.versions == (version,)
        assert {step.version for step in config.ensemble} <= {version}
        assert (repository / name / str(version)).is_dir()
    return version


def test_companions_have_the_same_version(tmp_path):
    publish_all(tmp_path, companions=True)
    assert served_together(tmp_path) == 1
    edit(tmp_path, "count: 2", "count: 5", "net_decode")
    publish_all(tmp_path, companions=True)
    assert served_together(tmp_path) == 2
    assert read_config(tmp_path / "net_decode").instances == 5


def test_companions_come_and_go(tmp_path):
    publish_all(tmp_path)
    publish_all(tmp_path, companions=True)
    assert served_together(tmp_path) == 2
    publish_all(tmp_path)
    assert served_version(tmp_path) == 3
    assert not (tmp_path / "net_image/config.pbtxt").exists()
    publish_all(tmp_path, companions=True)
    assert served_together(tmp_path) == 4


def test_batches_of_companions_follow_the_model(tmp_path):
    publish_all(tmp_path, companions=True)
    for largest in (3, 8):
        edit(tmp_path, f"max_batch_size: {11 - largest}", f"max_batch_size: {largest}")
        publish_all(tmp_path, companions=True)
        found = [read_config(tmp_path / name).max_batch_size
                 for name in ("net", "net_decode", "net_image")]  # fmt: skip
        assert found == [largest] * 3


@pytest.mark.parametrize("before", [False, True])
def test_a_kill_leaves_a_model_and_its_companions_at_one_version(tmp_path, before, steps):
    for fatal in itertools.count(1, 2):
        repository = tmp_path / str(fatal) / "repository"
        publish_all(repository, companions=before)
        with steps(fatal) as killed, contextlib.suppress(steps.Killed):
            publish_all(repository, companions=True)
        if not killed.dead:
            break
        with lock_repository(repository):
            if before or served_version(repository) == 2:
                served_together(repository)
    assert fatal > 5


@pytest.mark.slow
def test_exports_at_once_get_versions_of_their_own(tmp_path):
    repository = tmp_path / "repository"
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        folders = pool.map(publish_one, [repository] * 8)
    assert sorted(int(folder.name) for folder in folders) == list(range(1, 9))
    assert served_version(repository) == 8


def edit(repository, old, new, name="net"):
    path = repository / name / "config.pbtxt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_hand_edits_survive_every_export(tmp_path):
    publish_one(tmp_path)
    path = edit(tmp_path, "count: 1", "count: 4  # four cores")
    path.chmod(0o640)
    for _ in range(2):
        done = publish_all(tmp_path)
        assert [one.field for one in done.config.kept] == ["instance_group"]
        assert (done.config.replaced, done.saved) == ((), None)
        assert "count: 4  # four cores" in path.read_text()
        assert path.read_text().count("# 'delugeserve export' wrote this file") == 1
    assert served_version(tmp_path) == 3
    assert path.stat().st_mode & 0o777 == 0o640


def test_after_a_rollback_by_hand_edits_are_told_from_what_was_generated(tmp_path):
    """The file is the second version's, though it serves the first."""
    publish_one(tmp_path)
    other = dataclasses.replace(CONFIG, instance_groups=(InstanceGroup(2, "KIND_CPU"),))
    publish_all(tmp_path, config=other)
    edit(tmp_path, "versions: 2", "versions: 1")
    edit(tmp_path, "2/labels.txt", "1/labels.txt")
    done = publish_all(tmp_path)
    assert done.before.number == 1
    assert done.config.kept == ()
    assert [one.field for one in done.config.replaced] == ["version_policy"]
    assert read_config(tmp_path / "net").instances == 1
    assert served_version(tmp_path) == 3


@pytest.mark.parametrize("same", [True, False])
def test_another_version_is_served_beside_the_new_one_if_it_can_be(tmp_path, make_manifest, same):
    spec = MODELS["delugenet38"].with_classes(("cat", "dog"))
    manifests = [
        json.dumps(make_manifest(network=spec, precision=precision).to_json())
        for precision in ("fp32", "fp32", "fp32" if same else "int8")
    ]
    publish_all(tmp_path, manifest=manifests[0])
    publish_all(tmp_path, manifest=manifests[1])
    edit(tmp_path, "versions: 2", "versions: [1, 2]")
    done = publish_all(tmp_path, manifest=manifests[2])
    assert read_config(tmp_path / "net").versions == ((1, 3) if same else (3,))
    assert [one.field for one in done.config.replaced] == ([] if same else ["version_policy"])


def test_without_a_record_all_settings_stay(tmp_path):
    publish_one(tmp_path)
    edit(tmp_path, "count: 1", "count: 3")
    (tmp_path / "net/1" / GENERATED).unlink()
    done = publish_all(tmp_path)
    assert read_config(tmp_path / "net").instances == 3
    assert [one.field for one in done.config.kept] == ["instance_group"]
    assert done.config.replaced == ()


def test_a_file_whose_comments_are_lost_is_saved(tmp_path):
    publish_one(tmp_path)
    path = edit(tmp_path, "versions: 1", "versions: [1, # good\n 1]")
    before = path.read_text()
    done = publish_all(tmp_path)
    assert done.saved == tmp_path / "net/config.pbtxt.before-2"
    assert done.saved.read_text() == before
    assert done.config.lost == ("# good",)
    assert served_version(tmp_path) == 2


def test_a_label_file_of_a_person_is_kept_while_the_classes_stay(tmp_path):
    publish_one(tmp_path)
    edit(tmp_path, "1/labels.txt", "german.txt")
    (tmp_path / "net/german.txt").write_text("Katze\nHund\n")
    publish_one(tmp_path)
    assert set(read_config(tmp_path / "net").labels.values()) == {"german.txt"}
    done = publish_all(tmp_path, classes=("cow", "pig"), replace_classes=True)
    assert set(read_config(tmp_path / "net").labels.values()) == {"3/labels.txt"}
    assert {one.found for one in done.config.replaced} == {"german.txt"}


def test_other_classes_are_refused_again_when_publishing(tmp_path):
    """Another export may have published under the same name since the check of the options."""
    publish_one(tmp_path)
    with pytest.raises(OtherClassesError) as caught:
        publish_all(tmp_path, classes=("dog", "cow"))
    assert (caught.value.version, caught.value.added, caught.value.removed) == (
        1,
        ("cow",),
        ("cat",),
    )
    with pytest.raises(OtherClassesError) as caught:
        publish_all(tmp_path, classes=("dog", "cat"))
    assert caught.value.reordered
    assert served_version(tmp_path) == 1
    assert publish_all(tmp_path, classes=("dog", "cow"), replace_classes=True).before.number == 1


HAND_MADE = (
    'backend: "onnxruntime" max_batch_size: 4 # mine\nresponse_cache { enable: true }\n'
    'input { name: "pixels" data_type: TYPE_FP32 dims: [3, 32, 32] }\n'
)


def hand_made(repository, version=True):
    (repository / "net").mkdir(parents=True)
    (repository / "net/config.pbtxt").write_text(HAND_MADE)
    if version:
        (repository / "net/1").mkdir()
        (repository / "net/1/model.onnx").write_text("mine")


def test_a_model_of_a_person_whose_classes_are_not_known_is_refused(tmp_path):
    hand_made(tmp_path)
    with pytest.raises(OtherClassesError) as caught:
        publish_all(tmp_path)
    assert (caught.value.version, caught.value.added) == (1, ())
    assert "--name" in caught.value.remedy
    assert (tmp_path / "net/config.pbtxt").read_text() == HAND_MADE


@pytest.mark.parametrize("version", [True, False])
def test_a_model_of_a_person_keeps_its_settings(tmp_path, version):
    hand_made(tmp_path, version)
    done = publish_all(tmp_path, replace_classes=version)
    text = (tmp_path / "net/config.pbtxt").read_text()
    assert "max_batch_size: 4 # mine\nresponse_cache { enable: true }\n" in text
    assert read_config(tmp_path / "net").complete
    assert {one.field for one in done.config.kept} == {"max_batch_size", "response_cache"}
    assert 'input["pixels"]' in {one.field for one in done.config.replaced}
    if version:
        assert (tmp_path / "net/1/model.onnx").read_text() == "mine"


@pytest.mark.parametrize("broken", [b"instance_group { count: two }", b'name: "\xff"', b"{"])
def test_a_configuration_that_cannot_be_read_is_not_lost(tmp_path, broken):
    publish_one(tmp_path)
    path = tmp_path / "net/config.pbtxt"
    path.write_bytes(broken)
    with pytest.raises(RepositoryError) as caught:
        publish_one(tmp_path)
    assert caught.value.path == path
    assert path.read_bytes() == broken
    assert not (tmp_path / "net/2").exists()
    path.rename(tmp_path / "elsewhere")  # as the remedy says
    publish_one(tmp_path)
    assert served_version(tmp_path) == 2


def test_a_target_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    check_target(tmp_path / "new/repository", "net")
    (tmp_path / "file").touch()
    (tmp_path / "model").mkdir()
    below = tmp_path / "file" / "repository"
    for repository, name in ((tmp_path / "file", "net"), (tmp_path, "file"), (below, "net")):
        with pytest.raises(RepositoryError) as caught:
            check_target(repository, name)
        assert caught.value.path == tmp_path / "file"
    with pytest.raises(ModelNameError):
        check_target(tmp_path, "my model")
    for path in (tmp_path, tmp_path / "model"):
        # As another user's folder; the user root may write everywhere.
        monkeypatch.setattr(
            triton_repository.os, "access", lambda one, _mode, path=path: Path(one) != path
        )
        with pytest.raises(RepositoryError) as caught:
            check_target(tmp_path, "model")
        assert caught.value.path == path
        assert "chmod" in caught.value.remedy
