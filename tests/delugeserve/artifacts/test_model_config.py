"""``config.pbtxt``: written and read back equal, and what others wrote is read as Triton does."""

import dataclasses

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2 as pb

from delugeserve.artifacts.model_config import (
    FILE_NAME,
    InstanceGroup,
    ModelConfig,
    Tensor,
    classifier_config,
    read_config,
)
from delugeserve.artifacts.serving_config import ServingConfig
from delugeserve.errors import RepositoryError

CLASSIFIER = classifier_config(
    name="net",
    backend="onnxruntime",
    artefact="model.onnx",
    max_batch_size=8,
    image_size=32,
    num_classes=2,
    instance_group=InstanceGroup(count=2, kind="KIND_CPU"),
    parameters={"resize_size": "32"},
)

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
numbers = st.integers(1, 2**31 - 1)
tensors = st.dictionaries(
    names,
    st.builds(
        Tensor,
        st.sampled_from(["TYPE_UINT8", "TYPE_FP32", "TYPE_STRING"]),
        st.lists(st.integers(-1, 2**40), max_size=4).map(tuple),
    ),
    max_size=3,
)
groups = st.builds(
    InstanceGroup,
    numbers,
    st.sampled_from(["KIND_AUTO", "KIND_CPU", "KIND_GPU", "KIND_MODEL"]),
    st.lists(st.integers(0, 99), max_size=3).map(tuple),
)


@st.composite
def configs(draw):
    dynamic = draw(st.booleans())
    outputs = draw(tensors)
    labelled = draw(st.lists(st.sampled_from(sorted(outputs)), unique=True)) if outputs else []
    return ModelConfig(
        name=draw(names),
        backend=draw(names),
        artefact=draw(names),
        max_batch_size=draw(numbers),
        versions=draw(st.lists(numbers, max_size=3).map(tuple)),
        inputs=draw(tensors),
        outputs=outputs,
        labels={name: draw(names) for name in labelled},
        instance_groups=draw(st.lists(groups, max_size=3).map(tuple)),
        dynamic_batching=dynamic,
        queue=ServingConfig(queue_delay_us=draw(numbers) or None) if dynamic else ServingConfig(),
        warmup_batches=draw(st.lists(numbers, max_size=3).map(tuple)),
        parameters=draw(st.dictionaries(names, names, max_size=3)),
        runtime=draw(st.just("") | names),
    )


def read(folder, text):
    (folder / FILE_NAME).write_text(text, encoding="utf-8")
    return read_config(folder)


@given(config=configs())
def test_a_configuration_is_read_back_equal(tmp_path_factory, config):
    assert read(tmp_path_factory.mktemp("model"), config.to_text()) == config


def test_an_exported_classifier_as_triton_reads_it():
    config = text_format.Parse(CLASSIFIER.serving(3).to_text(), pb.ModelConfig())
    assert config.name == "net"
    assert config.max_batch_size == 8
    assert list(config.input[0].dims) == [32, 32, 3]
    assert config.input[0].data_type == pb.TYPE_UINT8
    # Triton's image clients want one output, and the layout of the input.
    assert [output.name for output in config.output] == ["probabilities"]
    assert config.input[0].format == pb.ModelInput.FORMAT_NHWC
    assert {output.label_filename for output in config.output} == {"3/labels.txt"}
    assert config.HasField("dynamic_batching")
    assert {warmup.batch_size for warmup in config.model_warmup} == {1, 8}
    assert config.parameters["resize_size"].string_value == "32"
    assert list(config.version_policy.specific.versions) == [3]
    (group,) = config.instance_group
    assert (group.count, group.kind) == (2, pb.ModelInstanceGroup.KIND_CPU)


def test_what_is_derived(tmp_path):
    assert CLASSIFIER.complete
    assert CLASSIFIER.num_classes == {"probabilities": 2}
    assert (CLASSIFIER.instances, CLASSIFIER.instance_kinds) == (2, ("KIND_CPU",))
    assert CLASSIFIER.threads is None
    for text, threads in (("4", 4), ("0", None), ("many", None)):
        parameters = {"INFERENCE_NUM_THREADS": text}
        assert dataclasses.replace(CLASSIFIER, parameters=parameters).threads == threads


def test_triton_defaults(tmp_path):
    config = read(tmp_path, 'platform: "onnxruntime_onnx" instance_group {} model_warmup {}')
    assert config.backend == "onnxruntime"
    assert (config.instances, config.warmup_batches) == (1, (1,))
    assert not config.complete
    assert read(tmp_path, "").instances == 1
    assert read(tmp_path, config.to_text()) == config


def test_fields_of_a_newer_triton_are_ignored(tmp_path):
    assert read(tmp_path, 'name: "net" field_of_tomorrow: 3').name == "net"


@pytest.mark.parametrize("text", ["max_batch_size: many", "{", None])
def test_a_file_that_cannot_be_read_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(RepositoryError) as caught:
        read_config(tmp_path)
    assert str(tmp_path / FILE_NAME) in caught.value.problem


def test_a_misspelt_kind_fails():
    with pytest.raises(ValueError, match="KIND_CPUS"):
        dataclasses.replace(CLASSIFIER, instance_groups=(InstanceGroup(1, "KIND_CPUS"),)).to_text()
