"""What a person wrote into ``config.pbtxt`` survives the next export, or is named."""

import re
from functools import partial

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2 as pb

from delugeserve.artifacts.config_merge import merge_config, write_in_place
from delugeserve.artifacts.config_message import describe, parse
from delugeserve.artifacts.config_rules import Artefact
from delugeserve.artifacts.config_syntax import comments
from delugeserve.artifacts.model_config import InstanceGroup, classifier_config

BOTH = ("logits", "probabilities")


def generate(version=1, largest=64, classes=2, backend="onnxruntime", outputs=BOTH, **parameters):
    config = classifier_config(
        name="net",
        backend=backend,
        artefact={"onnxruntime": "model.onnx", "openvino": "model.xml"}.get(backend, "model.plan"),
        max_batch_size=largest,
        image_size=32,
        num_classes=classes,
        instance_group=InstanceGroup(kind="KIND_GPU" if backend == "tensorrt" else "KIND_CPU"),
        parameters={"resize_size": "32", "interpolation": "bicubic", **parameters},
        runtime="model.py" if backend == "openvino" else "",
        outputs=outputs,
    )
    return config.serving(version).to_text()


BEFORE, NEW = generate(1), generate(2, 32)
ARTEFACT = Artefact(
    fixed_parameters=frozenset({"HINT_BF16"}), versions=frozenset({1}), servable=frozenset({1})
)


def edit(text=BEFORE, **replacements):
    """The generated text with a person's edits: each ``old`` (underscores are spaces) by a text."""
    for old, new in replacements.items():
        assert old in text
        text = text.replace(old, new, 1)
    return text


def merge(text, before=BEFORE, new=NEW, artefact=ARTEFACT):
    merged = merge_config(text, before, new, artefact)
    return merged, parse(merged.text)


def replaced(merged):
    return {one.field: (one.found, one.written) for one in merged.replaced}


def test_without_edits_the_file_is_what_is_generated():
    merged, message = merge(BEFORE)
    assert message == parse(NEW)
    assert (merged.kept, merged.replaced, merged.lost) == ((), (), ())


EDITS = {
    "instances": ("instance_group { count: 3 kind: KIND_CPU }", "instance_group"),
    "delay": ("dynamic_batching { max_queue_delay_microseconds: 2000 }", "dynamic_batching"),
    "priorities": (
        "dynamic_batching { priority_levels: 2 default_priority_level: 1 "
        "priority_queue_policy { key: 1 value { max_queue_size: 4 } } }",
        "dynamic_batching",
    ),
    "sequences": ("sequence_batching { max_sequence_idle_microseconds: 5 }", "sequence_batching"),
    "cache": ("response_cache { enable: true }", "response_cache"),
    "threads": (
        'parameters { key: "intra_op_thread_count" value { string_value: "1" } }',
        'parameters["intra_op_thread_count"]',
    ),
    "optimization": ("optimization { eager_batching: true }", "optimization"),
    "runtime": ('runtime: "model.py"', "runtime"),
    "warm-up": (
        'model_warmup { name: "mine" batch_size: 4 inputs { key: "image" value { '
        "data_type: TYPE_UINT8 dims: [32, 32, 3] random_data: true } } }",
        'model_warmup["mine"]',
    ),
    "unknown": ("field_of_tomorrow: 3", "field_of_tomorrow"),
}
GENERATED = {  # what the edit stands in place of
    "instances": re.compile(r"instance_group \{.*?\n\}\n", re.DOTALL),
    "delay": re.compile(r"dynamic_batching \{.*?\n\}\n", re.DOTALL),
    "priorities": re.compile(r"dynamic_batching \{.*?\n\}\n", re.DOTALL),
    "sequences": re.compile(r"dynamic_batching \{.*?\n\}\n", re.DOTALL),
}


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("name", EDITS)
def test_a_setting_written_by_hand_is_kept(name, known):
    written, field = EDITS[name]
    text = GENERATED[name].sub("", BEFORE) if name in GENERATED else BEFORE
    text += f"# why I need this\n{written}  # since March\n"
    merged, message = merge(text, BEFORE if known else None)
    assert f"# why I need this\n{written}  # since March\n" in merged.text
    assert field in {one.field for one in merged.kept}
    assert not merged.lost
    assert message.max_batch_size == 32
    assert {output.label_filename for output in message.output} == {"2/labels.txt"}
    for one in message.model_warmup:
        assert one.batch_size <= 32


def test_line_ends_of_windows_stay():
    written = EDITS["cache"][0]
    merged, message = merge((BEFORE + f"# why\n{written}  # since\n").replace("\n", "\r\n"))
    assert f"# why\r\n{written}  # since\r\n" in merged.text
    assert merged.lost == ()
    assert message.max_batch_size == 32


def test_what_was_removed_by_hand_stays_removed():
    text = re.sub(r"model_warmup \{.*?\n\}\n", "", BEFORE, flags=re.DOTALL)
    merged, message = merge(text)
    assert not message.model_warmup
    assert {(one.field, one.value) for one in merged.kept} == {
        ('model_warmup["batch of 1"]', ""),
        ('model_warmup["batch of 32"]', ""),
    }


def test_a_warmup_that_was_removed_by_hand_stays_removed():
    """The next export may have another largest batch, and so another name for its warm-up."""
    start = BEFORE.index('model_warmup {\n  name: "batch of 64"')
    end = BEFORE.index("\n}\n", start) + 3
    _, message = merge(BEFORE[:start] + BEFORE[end:])
    assert [one.batch_size for one in message.model_warmup] == [1]


@pytest.mark.parametrize("size", [1, 16])
def test_a_lower_batch_size_is_kept_and_warmed_up(size):
    text = edit(BEFORE, **{"max_batch_size: 64": f"max_batch_size: {size}"})
    merged, message = merge(text)
    assert message.max_batch_size == size
    assert {one.batch_size for one in message.model_warmup} == {1, size}
    assert {one.field for one in merged.kept} == {"max_batch_size"}
    again, message = merge(merged.text, NEW, generate(3, 48))
    assert {one.batch_size for one in message.model_warmup} == {1, size}
    assert (again.kept, again.replaced) == (merged.kept, ())


@pytest.mark.parametrize(
    ("edits", "field"),
    [
        ({'name: "net"': 'name: "other"'}, "name"),
        ({'backend: "onnxruntime"': 'backend: "openvino"'}, "backend"),
        ({'"model.onnx"': '"mine.onnx"'}, "default_model_filename"),
        ({"max_batch_size: 64": "max_batch_size: 65"}, "max_batch_size"),
        ({"max_batch_size: 64": ""}, "max_batch_size"),
        ({"TYPE_UINT8": "TYPE_FP32"}, 'input["image"]'),
        ({"dims: 32": "dims: 64"}, 'input["image"]'),
        ({"dims: 2": "dims: 3"}, 'output["logits"]'),
        ({'"image"': '"picture"'}, 'input["image"]'),
        ({'"bicubic"': '"bilinear"'}, 'parameters["interpolation"]'),
        ({'"resize_size"': '"resize"'}, 'parameters["resize_size"]'),
        ({"1/labels.txt": "german.txt"}, 'output["logits"].label_filename'),
    ],
)
def test_what_contradicts_the_artefact_is_replaced_and_named(edits, field):
    merged, message = merge(edit(BEFORE, **edits))
    new = parse(NEW)
    assert field in replaced(merged)
    assert all(one.reason for one in merged.replaced)
    for name in ("name", "backend", "default_model_filename", "max_batch_size", "input", "output"):
        assert getattr(message, name) == getattr(new, name)
    for key in ("interpolation", "resize_size"):
        assert message.parameters[key] == new.parameters[key]


def test_logits_that_were_added_by_hand_are_kept():
    alone = ("probabilities",)
    before, new = generate(1, outputs=alone), generate(2, outputs=alone, classes=3)
    logits = 'output { name: "logits" data_type: TYPE_FP32 dims: 2 }\n'
    _, message = merge(before + logits, before, new)
    assert {one.name: list(one.dims) for one in message.output} == {name: [3] for name in BOTH}
    # An export that offers them no more takes them away where nobody has touched them.
    _, message = merge(generate(1), generate(1), generate(2, outputs=alone))
    assert [one.name for one in message.output] == ["probabilities"]


def test_a_label_file_that_fits_is_kept():
    text = BEFORE.replace("1/labels.txt", "german.txt")
    merged, message = merge(text, artefact=Artefact(label_files=frozenset({"german.txt"})))
    assert {output.label_filename for output in message.output} == {"german.txt"}
    assert {one.field for one in merged.kept} == {'output["logits"]', 'output["probabilities"]'}


def test_a_parameter_of_precision_follows_the_artefact():
    before, new = generate(1, HINT_BF16="YES", backend="openvino"), generate(2, backend="openvino")
    _, message = merge(before, before, new)
    assert "HINT_BF16" not in message.parameters
    merged, message = merge(before.replace('"YES"', '"NO"'), before, new)
    assert "HINT_BF16" not in message.parameters
    assert replaced(merged) == {'parameters["HINT_BF16"]': ("NO", "")}


def test_instances_on_another_device_are_replaced():
    text = BEFORE.replace("count: 1", "count: 3")
    new = generate(2, backend="tensorrt")
    merged, message = merge(text, new=new)
    assert message.instance_group == parse(new).instance_group
    assert replaced(merged) == {
        "instance_group": ("{ count: 3 kind: KIND_CPU }", "{ count: 1 kind: KIND_GPU }")
    }
    # On a GPU of the same backend they are the person's own decision.
    merged, message = merge(BEFORE.replace("KIND_CPU", "KIND_GPU"))
    assert message.instance_group[0].kind == pb.ModelInstanceGroup.KIND_GPU
    assert not merged.replaced


def test_warmup_of_a_person_that_is_too_large_is_named():
    text = BEFORE + EDITS["warm-up"][0].replace("batch_size: 4", "batch_size: 48")
    merged, message = merge(text)
    assert {one.name for one in message.model_warmup} == {"batch of 1", "batch of 32"}
    assert [one.field for one in merged.replaced] == ['model_warmup["mine"]']


def test_preferred_batches_that_are_too_large_are_named():
    delay = "dynamic_batching {\n  preferred_batch_size: [ 16, 64 ]  # as measured\n"
    merged, message = merge(BEFORE.replace("dynamic_batching {\n", delay))
    assert list(message.dynamic_batching.preferred_batch_size) == [16]
    assert replaced(merged) == {"dynamic_batching.preferred_batch_size": ("[16, 64]", "[16]")}
    assert "# as measured" in merged.text


POLICY = re.compile(r"version_policy \{.*?\n\}\n", re.DOTALL)


@pytest.mark.parametrize(
    ("policy", "versions", "servable", "result", "named"),
    [
        ("specific { versions: 1 }", {1, 2}, {1, 2}, "specific { versions: 3 }", True),
        ("specific { versions: [1, 2] }", {1, 2}, {1}, "specific { versions: [1, 3] }", False),
        ("specific { versions: [1, 2] }", {1, 2}, {2}, "specific { versions: 3 }", True),
        ("latest { num_versions: 2 }", {1, 2}, {2}, "latest { num_versions: 2 }", False),
        ("latest { num_versions: 2 }", {1, 2}, {1}, "specific { versions: 3 }", True),
        ("all { }", {1, 2}, {1, 2}, "all { }", False),
        ("all { }", {1, 2}, {2}, "specific { versions: 3 }", True),
        ("all { }", {1, 2, 9}, {1, 2, 9}, "specific { versions: 3 }", True),
        ("", {1, 2}, set(), "", False),
    ],
)
def test_the_new_version_is_served(policy, versions, servable, result, named):
    before, new = generate(2), generate(3)
    text = POLICY.sub(f"version_policy {{ {policy} }}\n" if policy else "", before)
    artefact = Artefact(versions=frozenset(versions), servable=frozenset(servable))
    merged, message = merge(text, before, new, artefact)
    expected = text_format.Parse(result, pb.ModelVersionPolicy())
    assert message.version_policy == expected
    assert ("version_policy" in replaced(merged)) is named


def test_without_a_record_only_contradictions_are_replaced():
    """A file that was written by hand, or by a release that kept no record."""
    text = generate(1, backend="openvino", HINT_BF16="YES").replace("count: 1", "count: 2")
    merged, message = merge(text, None)
    new = parse(NEW)
    assert message.instance_group[0].count == 2
    for name in ("backend", "runtime", "default_model_filename", "max_batch_size", "input"):
        assert getattr(message, name) == getattr(new, name)
    assert "HINT_BF16" not in message.parameters
    assert message.version_policy == new.version_policy
    assert {one.field for one in merged.replaced} == {"max_batch_size"}


def test_list_syntax_and_other_layouts_are_edited_in_place():
    text = """# my server
name: 'net' ; max_batch_size : 0x40, backend: "onnx" "runtime"
default_model_filename: "model.onnx"
input < name: "image" data_type: TYPE_UINT8, dims: [32, 32, 3] >
output: [
  { name: "logits", data_type: TYPE_FP32, dims: [ 2 ], label_filename: "1/labels.txt" },  # raw
  { name: "probabilities" data_type: TYPE_FP32 dims: 2 label_filename: "1/labels.txt" }
]
instance_group [{ count: 5 }]
parameters [
  { key: "mine" value { string_value: "a # b" } }, # own
  { key: "resize_size" value { string_value: "99" } }
] version_policy { specific { versions: [ 1 ] } }"""
    merged, message = merge(text, None)
    assert comments(merged.text) == ("# my server", "# raw", "# own")
    assert merged.lost == ()
    assert (
        '{ name: "probabilities" data_type: TYPE_FP32 dims: 2 label_filename: "2/labels.txt" }'
        in (merged.text)
    )
    assert message.instance_group[0].count == 5
    assert message.parameters["mine"].string_value == "a # b"
    assert message.parameters["resize_size"].string_value == "32"
    assert message.max_batch_size == 32


def test_the_first_field_of_an_empty_message_is_indented():
    text = "dynamic_batching {\n}\n"
    new = parse(text)
    new.dynamic_batching.max_queue_delay_microseconds = 100
    new.dynamic_batching.default_queue_policy.max_queue_size = 9
    edited, _ = write_in_place(text, parse(text), new)
    lines = [line for line in edited.splitlines() if line[0] not in "d}"]
    assert lines
    assert all(line.startswith("  ") for line in lines)


def test_a_comment_within_a_replaced_value_is_reported_as_lost():
    policy = "version_policy { specific { versions: [ 1, # the good one\n 9 ] } }\n"
    merged, _ = merge(POLICY.sub(policy, BEFORE))
    assert merged.lost == ("# the good one",)


# Random hand edits: any field of Triton's message that a person may set, in any layout.

texts = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=8)
counts = st.integers(1, 99)
groups = st.lists(
    st.builds(
        pb.ModelInstanceGroup,
        name=texts,
        count=counts,
        kind=st.sampled_from([0, 2]),  # KIND_AUTO, KIND_CPU
        passive=st.booleans(),
    ),
    max_size=3,
)
FREE = {  # what no artefact contradicts
    "instance_group": groups,
    "dynamic_batching": st.builds(
        pb.ModelDynamicBatching,
        preferred_batch_size=st.lists(st.integers(1, 8), max_size=3),
        max_queue_delay_microseconds=counts,
        preserve_ordering=st.booleans(),
        priority_levels=counts,
    ),
    "optimization": st.builds(
        pb.ModelOptimizationPolicy,
        priority=st.sampled_from([0, 1, 2]),
        eager_batching=st.booleans(),
    ),
    "response_cache": st.builds(pb.ModelResponseCache, enable=st.booleans()),
    "model_transaction_policy": st.builds(pb.ModelTransactionPolicy, decoupled=st.booleans()),
    "metric_tags": st.dictionaries(texts, texts, max_size=3),
    "parameters": st.dictionaries(
        texts.filter(lambda key: key not in ("resize_size", "interpolation", "HINT_BF16")),
        st.builds(pb.ModelParameter, string_value=texts),
        max_size=4,
    ),
    "max_batch_size": st.integers(8, 32),
    "model_warmup": st.just([]),
}
FIXED = {  # what every artefact determines
    "name": texts,
    "backend": texts,
    "platform": texts,
    "default_model_filename": texts,
    "max_batch_size": st.sampled_from([0, -1, 65, 2**31 - 1]),
}


@st.composite
def edited(draw, edits=FREE | FIXED):
    """A configuration edited by hand: the message and its text."""
    message = parse(BEFORE)
    for name in draw(st.lists(st.sampled_from(sorted(edits)), unique=True, max_size=5)):
        value = draw(edits[name])
        if isinstance(value, dict):
            for key, one in value.items():
                if name == "parameters":
                    message.parameters[key].CopyFrom(one)
                else:
                    getattr(message, name)[key] = one
        elif isinstance(value, list):
            del getattr(message, name)[:]
            getattr(message, name).extend(value)
        elif hasattr(value, "DESCRIPTOR"):
            getattr(message, name).CopyFrom(value)
        else:
            setattr(message, name, value)
    return message, draw(layouts(message))


@st.composite
def layouts(draw, message):
    """The message as a text with comments and in one of the forms that people write."""
    lines = []
    print_ = partial(text_format.MessageToString, as_utf8=True)
    for field, value in message.ListFields():
        if draw(st.booleans()):
            lines.append(f"# comment {len(lines)} on {field.name}\n")
        part = pb.ModelConfig()
        if field.message_type and field.message_type.GetOptions().map_entry:
            for key in value:
                if hasattr(value[key], "DESCRIPTOR"):
                    getattr(part, field.name)[key].CopyFrom(value[key])
                else:
                    getattr(part, field.name)[key] = value[key]
        elif isinstance(value, (str, int)):
            setattr(part, field.name, value)
        elif hasattr(value, "extend"):
            values = [print_(one, as_one_line=True).strip() for one in value]
            if draw(st.booleans()):
                separator = draw(st.sampled_from([", ", ",\n  ", ",  # and\n"]))
                inside = separator.join(f"{{ {one} }}" for one in values)
                lines.append(f"{field.name}: [ {inside} ]\n")
                continue
            getattr(part, field.name).extend(value)
        else:
            getattr(part, field.name).CopyFrom(value)
            getattr(part, field.name).SetInParent()
        one_line = draw(st.booleans())
        text = print_(part, as_one_line=one_line).strip()
        if one_line and draw(st.booleans()):
            text = text.replace("{", "<").replace("}", ">") if '"' not in text else text
        lines.append(text + draw(st.sampled_from(["\n", " # so\n", "  \n\n"])))
    if draw(st.booleans()):
        lines.insert(draw(st.integers(0, len(lines))), "of_tomorrow { a: 1 b: [x] } # new\n")
    return "".join(lines)


@pytest.mark.slow
@settings(max_examples=50)
@given(edited(), st.sampled_from([32, 64]), st.booleans())
def test_random_edits_are_kept_or_named(change, largest, known):
    message, text = change
    assert parse(text) == message
    new_text = generate(2, largest)
    new, before = parse(new_text), parse(BEFORE)
    merged, result = merge(text, BEFORE if known else None, new_text)
    named = {re.match(r"\w+", one.field).group() for one in merged.replaced}
    for descriptor in pb.ModelConfig.DESCRIPTOR.fields:
        values = [getattr(one, descriptor.name) for one in (before, message, new, result)]
        was, written, generated, final = values
        if descriptor.name in ("version_policy", "output", "parameters", "model_warmup"):
            continue
        if written == was and known:
            assert final == generated
        elif written != was:
            assert final == written or descriptor.name in named or not known
    for key, value in message.parameters.items():
        assert result.parameters[key] == value
    for name in ("name", "backend", "platform", "default_model_filename", "input", "output"):
        assert getattr(result, name) == getattr(new, name)
    assert 1 <= result.max_batch_size <= largest
    assert all(one.batch_size <= result.max_batch_size for one in result.model_warmup)
    left = list(comments(merged.text)) + list(merged.lost)
    assert sorted(left) == sorted(comments(text))
    assert ("of_tomorrow { a: 1 b: [x] } # new" in merged.text) == ("of_tomorrow" in text)


@pytest.mark.slow
@settings(max_examples=50)
@given(edited(FREE))
def test_edits_that_contradict_nothing_lose_no_comment_and_are_stable(change):
    message, text = change
    merged, result = merge(text)
    assert merged.replaced == ()
    assert merged.lost == ()
    again = merge_config(merged.text, NEW, NEW, ARTEFACT)
    assert again.text == merged.text
    assert again.kept == merged.kept
    told = {one.field for one in merged.kept}
    new, final, written = describe(parse(NEW)), describe(result), describe(message)
    for name in ("instance_group", "dynamic_batching", "optimization", "response_cache"):
        assert (name in told) == (final.get(name) != new.get(name))
        assert final.get(name) == written.get(name)


def test_unknown_fields_are_kept_and_told_by_their_place():
    text = BEFORE.replace("dynamic_batching {", "dynamic_batching { of_tomorrow: [ 3, 4 ] # so")
    merged, _ = merge(text)
    assert ("dynamic_batching.of_tomorrow", "3 4") in {
        (one.field, one.value) for one in merged.kept
    }
    assert "of_tomorrow: [ 3, 4 ] # so" in merged.text


def test_describe_places():
    assert describe(parse(EDITS["threads"][0])) == {'parameters["intra_op_thread_count"]': '"1"'}
    assert describe(parse(EDITS["delay"][0])) == {
        "dynamic_batching": "{ max_queue_delay_microseconds: 2000 }"
    }
