"""Promote, roll back, canaries: whole configurations, with a person's edits."""

import contextlib
import itertools
import json
import re
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delugeserve.artifacts.canary import Canary, read_canary
from delugeserve.artifacts.config_message import parse
from delugeserve.artifacts.manifest import describe_files
from delugeserve.artifacts.model_config import read_config
from delugeserve.artifacts.promotion import (
    clear_canary,
    configs_of,
    plan_promotion,
    plan_rollback,
    promote,
    rollback,
    set_canary,
)
from delugeserve.artifacts.records import Check, Verification
from delugeserve.artifacts.serving_records import GENERATED
from delugeserve.artifacts.transaction import lock_repository
from delugeserve.artifacts.typed_json import to_json
from delugeserve.errors import (
    OtherClassesError,
    RepositoryError,
    UnknownNameError,
    UsageError,
)

MEMBERS = ("net", "net_decode", "net_image")


def config(repository, name="net"):
    return parse((repository / name / "config.pbtxt").read_text())


def served(repository, name="net"):
    """The version that is served, checked to be served whole."""
    found = config(repository, name)
    (number,) = found.version_policy.specific.versions
    want = parse((repository / name / str(number) / GENERATED).read_text())
    for field in ("backend", "default_model_filename", "max_batch_size", "parameters"):
        assert getattr(found, field) == getattr(want, field)
    for output in found.output:
        assert output.label_filename in (f"{number}/labels.txt", "")
    for step in found.ensemble_scheduling.step:
        assert step.model_version == number
    return number


def edit(repository, old, new, name="net"):
    path = repository / name / "config.pbtxt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_whole_configuration_of_a_version_is_written(repository):
    done = promote(repository, "net", 2)
    assert (done.before, done.version, served(repository)) == (3, 2, 2)
    found = read_config(repository / "net")
    assert (found.backend, found.artefact, found.max_batch_size) == ("openvino", "model.xml", 16)
    assert found.parameters["HINT_BF16"] == "YES"
    assert found.instances == 2
    assert set(found.labels.values()) == {"2/labels.txt"}
    assert done.changes.facts["backend"].now == "openvino"
    promote(repository, "net", 1)
    assert "HINT_BF16" not in read_config(repository / "net").parameters
    assert served(repository) == 1


def test_what_a_person_wrote_stays(repository):
    edit(repository, "count: 3", "count: 7  # mine")
    edit(repository, "dynamic_batching {", "response_cache { enable: true }\ndynamic_batching {")
    for number in (1, 2, 3):
        done = promote(repository, "net", number)
        assert {one.field for one in done.configs["net"].kept} == {
            "instance_group",
            "response_cache",
        }
    text = (repository / "net/config.pbtxt").read_text()
    assert "count: 7  # mine" in text
    assert text.count("wrote this file") == 1


def test_the_newest_is_taken_and_nothing_is_written_for_the_served_one(repository):
    assert not promote(repository, "net").changed
    assert promote(repository, "net", 1).changed
    assert promote(repository, "net").version == 3


def test_rolling_back_goes_to_what_was_served_before_step_by_step(repository):
    for number in (1, 2):
        promote(repository, "net", number)
    assert plan_rollback(repository, "net").version == 1
    assert [rollback(repository, "net").version for _ in range(2)] == [1, 3]
    # The repository had no history at first: the lower numbers stand for it.
    assert [rollback(repository, "net").version for _ in range(2)] == [2, 1]
    with pytest.raises(RepositoryError):
        rollback(repository, "net")
    assert served(repository) == 1


def test_labels_that_a_rollback_by_hand_left_behind_are_mended(repository):
    edit(repository, "versions: 3", "versions: 1")
    done = promote(repository, "net", 1)
    assert done.changed
    assert served(repository) == 1


def test_a_policy_of_a_person_that_would_not_serve_the_version_is_replaced(repository):
    edit(repository, "specific {\n    versions: 3\n  }", "all { }")
    assert [one.field for one in promote(repository, "net", 1).configs["net"].replaced] == [
        "version_policy"
    ]
    assert served(repository) == 1


def test_a_missing_model_or_version_is_named_with_those_that_exist(repository):
    with pytest.raises(UnknownNameError) as caught:
        promote(repository, "ned")
    assert caught.value.nearest == "net"
    with pytest.raises(RepositoryError) as error:
        promote(repository, "net", 7)
    assert "1, 2, 3" in error.value.remedy
    with pytest.raises(RepositoryError):
        promote(repository / "none", "net")


def test_a_damaged_or_failed_version_is_refused(repository, add_version):
    (repository / "net/1/model.onnx").write_text("changed")
    failed = Verification("failed", "", "", (Check("logits", False, "1", "0"),))
    add_version(repository, 4, verification=failed)
    promote(repository, "net", 3)
    for number in (1, 4):
        with pytest.raises(RepositoryError):
            promote(repository, "net", number)
    assert served(repository) == 3


def test_other_classes_need_a_flag_but_not_on_the_way_back(repository, add_version):
    add_version(repository, 4, classes=("cow", "pig", "hen"))
    with pytest.raises(OtherClassesError) as caught:
        promote(repository, "net", 3)
    assert "--replace-classes" in caught.value.remedy
    assert promote(repository, "net", 3, replace_classes=True).changes.classes
    assert rollback(repository, "net").version == 4
    assert served(repository) == 4


def test_a_version_without_a_record_is_served_as_its_manifest_says(repository):
    (repository / "net/1" / GENERATED).unlink()
    manifest = json.loads((repository / "net/1/manifest.json").read_text())
    del manifest["files"][GENERATED]
    (repository / "net/1/manifest.json").write_text(json.dumps(manifest))
    promote(repository, "net", 1)  # as version 3, of the same backend
    found = read_config(repository / "net")
    assert (found.backend, found.max_batch_size, found.warmup_batches) == ("onnxruntime", 8, (1, 8))
    assert set(found.labels.values()) == {"1/labels.txt"}


def test_a_model_of_somebody_else_changes_its_version_alone(tmp_path):
    folder = tmp_path / "net"
    for number in ("1", "2"):
        (folder / number).mkdir(parents=True)
        (folder / number / "model.onnx").touch()
    (folder / "config.pbtxt").write_text('backend: "onnxruntime" # mine\nmax_batch_size: 4\n')
    promote(tmp_path, "net", 1, replace_classes=True)
    assert "# mine\nmax_batch_size: 4\n" in (folder / "config.pbtxt").read_text()
    assert read_config(folder).versions == (1,)


def test_companions_follow(tmp_path, add_version):
    add_version(tmp_path, 1, companions=True)
    add_version(tmp_path, 2, companions=True)
    edit(tmp_path, "count: 2", "count: 4", "net_decode")
    done = promote(tmp_path, "net", 1)
    assert list(done.configs) == ["net", "net_decode", "net_image"]
    assert {served(tmp_path, name) for name in done.configs} == {1}
    assert config(tmp_path, "net_decode").instance_group[0].count == 4
    assert config(tmp_path, "net_image").output[0].label_filename == "1/labels.txt"
    with pytest.raises(RepositoryError) as caught:
        promote(tmp_path, "net_image", 1)
    assert "net" in caught.value.remedy


def test_companions_are_off_while_a_version_has_none(tmp_path, add_version):
    add_version(tmp_path, 1)
    add_version(tmp_path, 2, companions=True)
    edit(tmp_path, "count: 2", "count: 4", "net_decode")
    done = promote(tmp_path, "net", 1)
    assert done.off == ("net_decode", "net_image")
    assert not (tmp_path / "net_image/config.pbtxt").exists()
    done = rollback(tmp_path, "net")
    assert done.off == ()
    assert {served(tmp_path, name) for name in done.configs} == {2}
    assert config(tmp_path, "net_decode").instance_group[0].count == 4
    assert sorted(path.name for path in (tmp_path / "net_image").iterdir()) == ["2", "config.pbtxt"]


def test_a_version_without_companions_gets_copies_of_those_that_prepare_images_alike(
    tmp_path, add_version
):
    add_version(tmp_path, 1, classes=("cow", "pig", "hen"))
    path = tmp_path / "net/1" / GENERATED  # an older release left the digest out
    path.write_text(re.sub(r'parameters \{\s*key: "preprocessing".*?\n\}\n', "", path.read_text(),
                           flags=re.DOTALL))  # fmt: skip
    change_record(tmp_path / "net/1")
    add_version(tmp_path, 2, largest=4, companions="alike")
    (tmp_path / "net_decode/2/model.py").write_text("decode")
    plan = plan_promotion(tmp_path, "net", 1, replace_classes=True)
    assert [one.name for one in plan.adopted] == ["net_decode", "net_image"]
    assert not (tmp_path / "net_image/1").exists()
    assert list(configs_of(tmp_path, "net", 1)) == ["net"]
    done = promote(tmp_path, "net", 1, replace_classes=True)
    assert done.off == ()
    for name in MEMBERS:
        (number,) = config(tmp_path, name).version_policy.specific.versions
        assert number == 1
        assert config(tmp_path, name).max_batch_size == 8
    found = config(tmp_path, "net_image")
    assert {step.model_version for step in found.ensemble_scheduling.step} == {1}
    assert list(found.output[0].dims) == [3]
    assert (tmp_path / "net_image/1/labels.txt").read_text() == "cow\npig\nhen\n"
    assert (tmp_path / "net_decode/1/model.py").read_text() == "decode"
    assert config(tmp_path).parameters["preprocessing"] == found.parameters["preprocessing"]
    assert rollback(tmp_path, "net").version == 2
    assert promote(tmp_path, "net", 1, replace_classes=True).adopted == ()


def test_a_canary_has_its_companions_at_once(tmp_path, add_version):
    add_version(tmp_path, 1)
    add_version(tmp_path, 2, companions="alike")
    set_canary(tmp_path, "net", 1, 0.1)
    assert sorted(configs_of(tmp_path, "net", 1)) == sorted(MEMBERS)
    for name in MEMBERS:
        assert (tmp_path / name / "1").is_dir()
        assert served(tmp_path, name) == 2


def change_record(folder):
    """Let the manifest have the record of the configuration as it is now."""
    values = json.loads((folder / "manifest.json").read_text())
    values["files"][GENERATED] = to_json(describe_files([folder / GENERATED])[GENERATED])
    (folder / "manifest.json").write_text(json.dumps(values))


def test_a_canary_is_set_promoted_and_ended(repository):
    with pytest.raises(RepositoryError):
        set_canary(repository, "net", 3, 0.05)
    assert set_canary(repository, "net", 2, 0.05) == Canary("net", 2, 0.05)
    assert served(repository) == 3
    assert parse(configs_of(repository, "net", 2)["net"]).backend == "openvino"
    assert set_canary(repository, "net", None, 0.5).version == 2
    assert plan_promotion(repository, "net").ended == Canary("net", 2, 0.5)
    assert promote(repository, "net").version == 2
    assert (served(repository), read_canary(repository)) == (2, None)
    set_canary(repository, "net", 3, 0.1)
    done = rollback(repository, "net")
    assert (done.before, done.version, done.ended.version) == (2, 2, 3)
    assert (served(repository), read_canary(repository)) == (2, None)
    set_canary(repository, "net", 3, 0.1)
    assert clear_canary(repository).version == 3
    assert read_canary(repository) is None


@pytest.mark.parametrize("share", [0, 1, -0.1, 5])
def test_a_share_is_between_none_and_all(repository, share):
    with pytest.raises(UsageError):
        set_canary(repository, "net", 2, share)


def test_a_damaged_canary_is_named(repository):
    (repository / ".canary.json").write_text("{")
    with pytest.raises(RepositoryError) as caught:
        promote(repository, "net", 2)
    assert caught.value.path == repository / ".canary.json"


def test_a_kill_leaves_every_companion_at_one_version(tmp_path, add_version, steps):
    for fatal in itertools.count(1):
        repository = tmp_path / str(fatal)
        add_version(repository, 1, companions=True)
        add_version(repository, 2, companions=True)
        with steps(fatal) as killed, contextlib.suppress(steps.Killed):
            promote(repository, "net", 1)
        if not killed.dead:
            break
        with lock_repository(repository):
            found = {served(repository, name) for name in MEMBERS}
        assert found == {1 if fatal > 1 else 2}
    assert fatal > 5


FLIP = """
import sys
from pathlib import Path
from delugeserve.artifacts.promotion import promote
print("ready", flush=True)
while True:
    for number in (1, 2):
        promote(Path(sys.argv[1]), "net", number)
"""


@pytest.mark.slow
def test_a_process_that_is_really_killed_leaves_one_version(tmp_path, add_version):
    add_version(tmp_path, 1, companions=True)
    add_version(tmp_path, 2, companions=True)
    for milliseconds in (0, 7, 13, 29, 41):
        with subprocess.Popen(
            [sys.executable, "-c", FLIP, tmp_path], stdout=subprocess.PIPE
        ) as process:
            process.stdout.readline()
            time.sleep(0.2 + milliseconds / 1000)
            process.kill()
        with lock_repository(tmp_path):
            assert len({served(tmp_path, name) for name in MEMBERS}) == 1


ADDITIONS = ("response_cache { enable: true }", "optimization { eager_batching: true }", "# note")
ACTIONS = st.one_of(
    st.tuples(st.just("promote"), st.sampled_from([1, 2, 3])),
    st.tuples(st.just("rollback"), st.none()),
    st.tuples(st.just("write"), st.sampled_from(ADDITIONS)),
    st.tuples(st.just("instances"), st.integers(1, 9)),
)


@settings(max_examples=25)
@given(actions=st.lists(ACTIONS, max_size=8))
def test_any_sequence_serves_one_whole_version_and_keeps_what_was_written(
    tmp_path_factory, add_version, three_versions, actions
):
    repository = three_versions(tmp_path_factory.mktemp("sequence"))
    path = repository / "net/config.pbtxt"
    written, instances, past, now = set(), None, [1, 2], 3
    for action, value in actions:
        if action == "promote":
            if promote(repository, "net", value).changed and value != now:
                past.append(now)
            now = value
        elif action == "rollback":
            while past and past[-1] == now:
                past.pop()
            if not past:
                with pytest.raises(RepositoryError):
                    rollback(repository, "net")
                continue
            now = rollback(repository, "net").version
            assert now == past.pop()
        elif action == "write" and value not in written:
            path.write_text(f"{path.read_text()}{value}\n")
            written.add(value)
        elif action == "instances":
            text, old = path.read_text(), config(repository).instance_group[0].count
            path.write_text(text.replace(f"count: {old}", f"count: {value}"))
            instances = value
        assert served(repository) == now
        text = path.read_text()
        assert all(one in text for one in written)
        # A value like the generated one is not told from it.
        if instances not in (None, 1, 2, 3):
            assert config(repository).instance_group[0].count == instances
