"""The manifest: written, read back, the same value; anything else is refused."""

import dataclasses
import json
import string
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delugeserve.artifacts.interface import INPUT, Precision, SumForm
from delugeserve.artifacts.manifest import (
    FILE_NAME,
    SCHEMA_VERSION,
    Manifest,
    check_files,
    describe_files,
    find_manifest,
    read_manifest,
)
from delugeserve.artifacts.preprocessing import preprocessing_of
from delugeserve.artifacts.records import (
    Check,
    Comparison,
    EvidenceRecord,
    FileRecord,
    Flip,
    Loss,
    Origin,
    PlanDetails,
    Profile,
    Quantisation,
    SumFormChoice,
    Verification,
)
from delugeserve.artifacts.typed_json import from_json, to_json
from delugeserve.errors import RepositoryError
from delugeserve.zoo import MODELS

floats = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(codec="utf-8"), max_size=10)
naturals = st.integers(0, 2**40)
shapes = st.lists(naturals, max_size=4).map(tuple)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2),
    max_leaves=4,
)


def any_of(kind):
    return st.sampled_from(get_args(kind))


def tuples(strategy):
    return st.lists(strategy, max_size=3).map(tuple)


def mappings(keys, values):
    return st.dictionaries(keys, values, max_size=3)


objects = mappings(text, json_values)
precisions = any_of(Precision)
comparisons = st.builds(
    Comparison,
    precision=precisions,
    batch_size=naturals,
    num_images=naturals,
    max_error=floats,
    worst_image=naturals,
    mean_error=floats,
    relative_error=floats,
    top1_agreement=floats,
    top5_agreement=floats,
    kl_divergence=floats,
    flips=tuples(st.builds(Flip, naturals, naturals, naturals, text, text, floats)),
    histogram=tuples(naturals),
    allowed_error=st.none() | floats,
    required_agreement=st.none() | floats,
    close_margin=st.none() | floats,
)
verifications = st.builds(
    Verification,
    status=st.sampled_from(["passed", "failed", "built, not run"]),
    images=text,
    machine=text,
    checks=tuples(st.builds(Check, text, st.booleans(), text, text, text, st.booleans())),
    comparisons=tuples(comparisons),
    date=text,
)
quantisations = st.builds(
    Quantisation,
    method=st.sampled_from(["entropy", "minmax", "percentile"]),
    calibrated_on=text,
    representative=st.booleans(),
    activations=st.sampled_from(["int8", "uint8", "either"]),
    max_drop=st.none() | floats,
    judged_on=text,
    layers=tuples(text),
    kept=tuples(text),
    loss=st.builds(Loss, floats, floats),
    sensitivity=mappings(text, floats),
)
plan_details = st.builds(
    PlanDetails,
    runtime=text,
    version=text,
    compute_capabilities=tuples(text),
    minimum_compute_capability=st.none() | text,
    built_on=st.none() | text,
    profile=mappings(text, st.builds(Profile, shapes, shapes, shapes)),
    precisions=mappings(precisions, naturals),
    precisions_of=st.sampled_from(["engine", "network"]),
)
manifests = st.builds(
    Manifest,
    model=text,
    trained=st.booleans(),
    checkpoint=st.builds(
        Origin,
        file=st.none() | text,
        sha256=st.none() | st.text(string.hexdigits),
        seed=st.none() | st.integers(),
        recipe=objects,
        data=objects,
        metrics=objects,
    ),
    network=st.sampled_from(list(MODELS.values())),
    backend=text,
    precision=precisions,
    sum_form=st.builds(SumFormChoice, any_of(SumForm), mappings(any_of(SumForm), floats)),
    artefact=text,
    max_batch_size=naturals,
    quantisation=st.none() | quantisations,
    verification=verifications,
    export_verification=st.none() | verifications,
    evidence=st.builds(EvidenceRecord, naturals, st.none() | text, naturals, st.booleans()),
    engine=st.none() | plan_details,
    speed=mappings(text, mappings(naturals, floats)),
    files=mappings(text, st.builds(FileRecord, naturals, text)),
    environment=mappings(text, text),
    seconds=mappings(text, floats),
    created=text,
)


@given(manifests)
def test_a_manifest_is_read_back_equal(manifest):
    with TemporaryDirectory() as folder:
        manifest.write(Path(folder))
        assert read_manifest(Path(folder)) == manifest


def test_no_part_is_a_mapping_of_names_that_a_reader_would_have_to_know():
    free = {"recipe", "data", "metrics"}  # what the checkpoint's header says

    def check(kind):
        if not dataclasses.is_dataclass(kind):
            assert kind is not Any
            for part in get_args(kind):
                check(part)
            return
        assert kind.__dataclass_params__.frozen, kind
        for name, hint in get_type_hints(kind).items():
            if name not in free:
                check(hint)

    check(Manifest)


def test_the_batch_that_a_plan_is_tuned_for(make_manifest, make_plan_details):
    assert make_manifest().optimal_batch_size is None
    details = make_plan_details(profile={INPUT: Profile((1, 2), (12, 2), (16, 2))})
    assert make_manifest(engine=details).optimal_batch_size == 12


def test_the_schema_before_is_read(tmp_path, make_manifest):
    expected = make_manifest()
    expected.write(tmp_path)
    path = tmp_path / FILE_NAME
    values = json.loads(path.read_text())
    digest = values.pop("preprocessing")
    path.write_text(json.dumps(values | {"schema_version": 5}))
    assert read_manifest(tmp_path) == expected
    assert expected.preprocessing == digest == preprocessing_of(expected.network.task).digest
    path.write_text(json.dumps({"schema_version": 5}))
    with pytest.raises(RepositoryError, match="damaged"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("version", [3, 2, 1, SCHEMA_VERSION + 1])
def test_another_schema_is_named(tmp_path, make_manifest, version):
    dataclasses.replace(make_manifest(), schema_version=version).write(tmp_path)
    with pytest.raises(RepositoryError, match=f"schema version is {version}") as caught:
        read_manifest(tmp_path)
    assert ("newer release" in caught.value.remedy) is (version > SCHEMA_VERSION)
    assert find_manifest(tmp_path.parent, None) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"model": 1}', b"\xff"])
def test_a_damaged_manifest_is_refused(tmp_path, content):
    path = tmp_path / FILE_NAME
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RepositoryError, match="damaged"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"surprise": 1}, "'surprise'"),
        ({"precision": "fp8"}, "Manifest.precision"),
        ({"max_batch_size": "8"}, "Manifest.max_batch_size"),
        ({"max_batch_size": True}, "Manifest.max_batch_size"),
        ({"verification": {"status": "passed"}}, "Manifest.verification lacks"),
        ({"files": {"a": {"bytes": 1, "sha256": None}}}, "Manifest.files.a.sha256"),
        ({"speed": {"fp32": {"one": 1.0}}}, "one"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(tmp_path, make_manifest, change, where):
    (tmp_path / FILE_NAME).write_text(json.dumps(make_manifest().to_json() | change))
    with pytest.raises(RepositoryError, match="damaged") as caught:
        read_manifest(tmp_path)
    assert where in caught.value.problem


def test_a_folder_without_a_manifest(tmp_path):
    with pytest.raises(RepositoryError, match="is not an exported version"):
        read_manifest(tmp_path)
    assert find_manifest(tmp_path, 3) is None


def test_changed_and_missing_files_are_named(tmp_path, make_manifest):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights")
    manifest = make_manifest(files=describe_files([path]))
    check_files(tmp_path, manifest)
    path.write_bytes(b"wrights")
    with pytest.raises(RepositoryError, match=r"model\.onnx has changed"):
        check_files(tmp_path, manifest)
    path.unlink()
    with pytest.raises(RepositoryError, match=r"model\.onnx is missing"):
        check_files(tmp_path, manifest)


@dataclasses.dataclass(frozen=True)
class Example:
    pair: tuple[int, str]
    choice: Literal[1, "a"]
    free: Any = None
    by_size: Mapping[int, float] | None = None


@given(st.builds(Example, st.tuples(st.integers(), text), st.sampled_from([1, "a"]), json_values,
                 st.none() | mappings(st.integers(), floats)))  # fmt: skip
def test_typed_json_round_trip(example):
    assert from_json(Example, json.loads(json.dumps(to_json(example)))) == example


@pytest.mark.parametrize(
    "value", [{"pair": [1], "choice": 1}, {"pair": [1, "x"], "choice": True}, {"choice": 1}]
)
def test_typed_json_refuses_other_types(value):
    with pytest.raises(ValueError, match="Example"):
        from_json(Example, value)
