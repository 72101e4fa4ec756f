"""A model answers with the labels of the version that answers, or is refused."""

import pytest

from delugeserve.artifacts.model_config import read_config
from delugeserve.artifacts.promotion import promote
from delugeserve.artifacts.served_labels import (
    check_served_labels,
    find_label_faults,
    models_to_serve,
    served_versions,
)
from delugeserve.artifacts.versions import read_repository, read_version
from delugeserve.errors import RepositoryError
from delugeserve.verification.verify import verify_version

POLICIES = {
    "": [3],
    "version_policy { latest { num_versions: 2 } }": [2, 3],
    "version_policy { latest { } }": [3],
    "version_policy { all { } }": [1, 2, 3],
    "version_policy { specific { versions: [1, 3, 9] } }": [1, 3],
    "version_policy { specific { versions: [9] } }": [],
}


@pytest.mark.parametrize("policy", POLICIES)
def test_the_versions_that_a_server_loads(repository, policy):
    write(repository, policy)
    assert served_versions(repository / "net", read_config(repository / "net")) == POLICIES[policy]


def write(repository, policy, labels="3/labels.txt"):
    (repository / "net/config.pbtxt").write_text(
        f'backend: "onnxruntime" max_batch_size: 8 {policy} input {{ name: "image" }} '
        f'output {{ name: "probabilities" dims: 2 label_filename: "{labels}" }}'
    )


def faults(repository):
    found = find_label_faults(repository / "net", read_config(repository / "net"))
    return [(one.version, one.served) for one in found]


def test_labels_of_a_version_that_is_not_served(repository):
    """As the rollback by hand that was documented once left it."""
    write(repository, "version_policy { specific { versions: 1 } }")
    assert faults(repository) == [(3, 1)]
    with pytest.raises(RepositoryError) as caught:
        check_served_labels(repository / "net", read_config(repository / "net"))
    assert "delugeserve promote net 1" in caught.value.remedy
    promote(repository, "net", 1)
    assert faults(repository) == []


def test_one_label_file_for_versions_with_other_classes(repository, add_version):
    add_version(repository, 4, classes=("cow", "pig"))
    write(repository, "version_policy { all { } }", "4/labels.txt")
    assert faults(repository) == [(4, 1)]
    write(repository, "version_policy { latest { num_versions: 1 } }", "4/labels.txt")
    assert faults(repository) == []


def test_versions_with_the_same_classes_and_files_of_a_person_are_fine(repository):
    write(repository, "version_policy { all { } }")
    assert faults(repository) == []
    write(repository, "version_policy { all { } }", "german.txt")
    assert faults(repository) == []


def test_labels_of_an_ensemble(tmp_path, add_version):
    add_version(tmp_path, 1, companions=True)
    add_version(tmp_path, 2, companions=True)
    path = tmp_path / "net_image/config.pbtxt"
    path.write_text(path.read_text().replace("2/labels.txt", "1/labels.txt"))
    with pytest.raises(RepositoryError) as caught:
        models_to_serve(tmp_path)
    assert "delugeserve promote net 2" in caught.value.remedy
    promote(tmp_path, "net", 2)
    assert [one.name for one in models_to_serve(tmp_path)] == ["net", "net_decode", "net_image"]


def test_verify_inspect_and_serve_say_so(repository):
    write(repository, "version_policy { specific { versions: 1 } }")
    with pytest.raises(RepositoryError, match="version 3"):
        models_to_serve(repository)
    with pytest.raises(RepositoryError, match="version 3"):
        verify_version(repository / "net/1")
    assert read_version(repository / "net/1").label_faults
    assert "version 3" in read_repository(repository)[0].fault
    assert not read_version(repository / "net/2").label_faults
