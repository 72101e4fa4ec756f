"""Publishing: loadable at every moment."""

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from delugeserve.artifacts import publishing as triton_repository
from delugeserve.artifacts.labels import write_labels
from delugeserve.artifacts.model_config import InstanceGroup, classifier_config, read_config
from delugeserve.artifacts.publishing import free_version, publish, staging
from delugeserve.errors import RepositoryError

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


def publish_one(repository, content="weights"):
    with staging(repository) as workspace:
        staged = workspace / "version"
        staged.mkdir()
        (staged / "model.onnx").write_text(content)
        write_labels(staged, ["cat", "dog"])
        return publish(staged, repository, CONFIG)


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


class Killed(BaseException):
    """Stands for a kill: no handler of ordinary errors may catch it."""


class Renames:
    """Counts the renames of a body, and kills it just before one of them."""

    def __init__(self, fatal=None):
        self.fatal, self.count = fatal, 0

    def __enter__(self):
        self.patch = pytest.MonkeyPatch()
        original = Path.replace

        def replace(path, target):
            self.count += 1
            if self.count == self.fatal:
                raise Killed
            return original(path, target)

        self.patch.setattr(Path, "replace", replace)
        return self

    def __exit__(self, *_error):
        self.patch.undo()


# Into a model that exists: the version's folder, then config.pbtxt. A new model: the same two in
# the staging folder, then the model's folder.
RENAMES = {"existing": 2, "new": 3}


def repository_of(tmp_path, kind):
    repository = tmp_path / "repository"
    if kind == "existing":
        publish_one(repository, "old")
    return repository


@pytest.mark.parametrize(
    ("kind", "fatal"),
    [(kind, number + 1) for kind, count in RENAMES.items() for number in range(count)],
)
def test_a_kill_at_any_rename_leaves_a_loadable_repository(tmp_path, kind, fatal):
    repository = repository_of(tmp_path, kind)
    with Renames(fatal) as renames, pytest.raises(Killed):
        publish_one(repository, "new")
    assert renames.count == fatal
    if kind == "existing":
        assert served_version(repository) == 1
    else:
        assert not (repository / "net").exists(), "a new model appears whole or not at all"
    assert publish_one(repository).parent == repository / "net"
    served_version(repository)


@pytest.mark.parametrize("kind", RENAMES)
def test_no_rename_is_without_a_kill_point(tmp_path, kind):
    repository = repository_of(tmp_path, kind)
    with Renames() as renames:
        publish_one(repository, "new")
    assert renames.count == RENAMES[kind]


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


@pytest.mark.slow
def test_exports_at_once_get_versions_of_their_own(tmp_path):
    repository = tmp_path / "repository"
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        folders = pool.map(publish_one, [repository] * 8)
    assert sorted(int(folder.name) for folder in folders) == list(range(1, 9))
    assert served_version(repository) == 8
