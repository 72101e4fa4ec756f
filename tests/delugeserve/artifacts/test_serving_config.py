"""Settings of a model's server: read, changed in place, refused where they do not fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delugeserve.artifacts.config_message import parse
from delugeserve.artifacts.configuring import configure, plan_configuration
from delugeserve.artifacts.model_config import InstanceGroup, classifier_config
from delugeserve.artifacts.promotion import promote
from delugeserve.artifacts.serving_config import (
    ServingConfig,
    apply_serving,
    even_batches,
    leaves_cores_idle,
    read_serving,
    requests_to_hold,
    stops_prefetching,
)
from delugeserve.errors import UnknownNameError, UsageError


def generated(largest=64, backend="onnxruntime"):
    config = classifier_config(
        name="net",
        backend=backend,
        artefact="model",
        max_batch_size=largest,
        image_size=32,
        num_classes=2,
        instance_group=InstanceGroup(kind="KIND_CPU"),
        parameters={"resize_size": "32"},
    )
    return parse(config.to_text())


def test_an_export_leaves_the_queue_without_limits():
    """Triton pauses for half a second at times where a queue has a limit or a timeout."""
    message = generated()
    assert message.HasField("dynamic_batching")
    assert not message.dynamic_batching.HasField("default_queue_policy")
    found = read_serving(message)
    assert not stops_prefetching(found)
    assert (found.queue_delay_us, found.preferred_batch_sizes) == (0, ())
    assert (found.instances, found.threads, found.warmup_batches) == (1, 0, (1, 64))


@pytest.mark.parametrize(
    "settings",
    [{"queue_size": 1}, {"queue_timeout_us": 1}, {"client_timeout": True}, {"priority_levels": 2}],
)
def test_what_makes_the_batcher_wait(settings):
    assert stops_prefetching(ServingConfig(**settings))
    assert not stops_prefetching(ServingConfig(**dict.fromkeys(settings, 0), queue_delay_us=7))


@pytest.mark.parametrize(("size", "batch"), [(32, 64), (224, 64), (224, 1), (1000, 512)])
def test_the_requests_that_a_server_holds_fit_its_memory(size, batch):
    held = requests_to_hold(3 * size**2 * batch)
    assert 256 <= held <= 1024
    assert held == 256 or held * batch * 3 * size**2 <= 2 << 30


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "instances": st.integers(1, 8),
        "threads": st.integers(0, 8),
        "cpu_pinning": st.booleans(),
        "preferred_batch_sizes": st.lists(st.integers(1, 64), unique=True).map(sorted).map(tuple),
        "queue_delay_us": st.integers(0, 10**6),
        "queue_size": st.integers(0, 9999),
        "queue_timeout_us": st.integers(0, 10**8),
        "timeout_action": st.sampled_from(["reject", "delay"]),
        "client_timeout": st.booleans(),
        "priority_levels": st.integers(0, 5),
        "warmup_batches": st.lists(st.integers(1, 64), unique=True).map(sorted).map(tuple),
        "response_cache": st.booleans(),
        "rate_limit": st.dictionaries(st.sampled_from(["cores", "memory"]), st.integers(1, 9)),
        "rate_priority": st.integers(0, 9),
    },
)


@given(stated=SETTINGS)
def test_what_is_stated_is_set_and_the_rest_stays(stated):
    message = generated(backend="openvino")
    before = read_serving(message)
    apply_serving(ServingConfig(**stated), message)
    found = read_serving(message).stated
    priority = found.pop("default_priority")
    assert priority <= found["priority_levels"]
    assert (priority == 0) == (found["priority_levels"] == 0)
    expected = {**before.stated, **stated}
    del expected["default_priority"]
    assert found == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"instances": 0},
        {"threads": -1},
        {"preferred_batch_sizes": (128,)},
        {"warmup_batches": (0,)},
        {"warmup_batches": (65,)},
        {"default_priority": 1},
        {"priority_levels": 2, "default_priority": 3},
    ],
)
def test_what_does_not_fit_is_refused(settings):
    with pytest.raises(UsageError):
        apply_serving(ServingConfig(**settings), generated())


def test_models_that_have_no_such_setting():
    ensemble = parse('ensemble_scheduling { step { model_name: "net" } }')
    with pytest.raises(UsageError) as caught:
        apply_serving(ServingConfig(instances=2), ensemble)
    assert "net" in caught.value.remedy
    with pytest.raises(UsageError):
        apply_serving(ServingConfig(threads=2), generated(backend="tensorrt"))
    with pytest.raises(UsageError):
        apply_serving(ServingConfig(cpu_pinning=True), generated(backend="onnxruntime"))
    groups = parse("instance_group { count: 1 } instance_group { count: 1 }")
    with pytest.raises(UsageError):
        apply_serving(ServingConfig(instances=2), groups)
    sequences = parse("sequence_batching { }")
    with pytest.raises(UsageError):
        apply_serving(ServingConfig(queue_size=2), sequences)


def test_priorities_with_queues_of_their_own():
    message = parse(
        "dynamic_batching { priority_levels: 3 default_priority_level: 3 "
        "priority_queue_policy { key: 1 value { max_queue_size: 4 } } "
        "priority_queue_policy { key: 3 value { max_queue_size: 5 } } }"
    )
    apply_serving(ServingConfig(queue_size=9, priority_levels=2), message)
    batching = message.dynamic_batching
    assert {key: one.max_queue_size for key, one in batching.priority_queue_policy.items()} == {
        1: 9
    }
    assert (batching.default_priority_level, batching.default_queue_policy.max_queue_size) == (2, 9)


def test_a_file_is_changed_in_place(repository):
    path = repository / "net/config.pbtxt"
    path.write_text(path.read_text().replace("count: 3", "count: 3  # by hand"))
    settings = ServingConfig(instances=2, queue_delay_us=2000, threads=4)
    plan = plan_configuration(repository, "net", settings)
    assert "# by hand" in path.read_text()
    assert "count: 3" in path.read_text()
    done = configure(repository, "net", settings)
    assert done == plan
    assert "count: 2  # by hand" in path.read_text()
    assert (done.before.instances, done.now.instances) == (3, 2)
    assert set(done.changes) == {
        "instance_group",
        "dynamic_batching.max_queue_delay_microseconds",
        'parameters["intra_op_thread_count"]',
    }
    assert not configure(repository, "net", settings).changed
    promote(repository, "net", 1)  # as an edit by hand, it stays
    found = read_serving(parse(path.read_text()))
    assert (found.instances, found.queue_delay_us, found.threads) == (2, 2000, 4)


def test_companions_have_settings_too(tmp_path, add_version):
    add_version(tmp_path, 1, companions=True)
    assert configure(tmp_path, "net_decode", ServingConfig(instances=4)).now.instances == 4
    with pytest.raises(UsageError):
        configure(tmp_path, "net_image", ServingConfig(instances=4))
    with pytest.raises(UnknownNameError) as caught:
        configure(tmp_path, "nett", ServingConfig(instances=4))
    assert caught.value.nearest == "net"


@pytest.mark.parametrize(
    ("cores", "largest", "image_ms", "sizes"),
    [
        (2, 64, 3.9, (16, 64)),
        (4, 64, 3.9, (32, 64)),
        (5, 64, 3.9, ()),
        (2, 16, 3.9, ()),
        (2, 0, 3.9, ()),
        (2, 64, 1.0, (32, 64)),  # 16 take less than 20 ms
        (2, 64, 0.3, ()),
        (2, 256, 0.3, (80, 256)),
    ],
)
def test_even_batches(cores, largest, image_ms, sizes):
    assert even_batches(cores, largest, image_ms) == sizes


@given(st.integers(1, 256), st.integers(0, 1024))
def test_what_an_export_prefers_fits_its_machine(cores, largest):
    settings = ServingConfig(preferred_batch_sizes=even_batches(cores, largest))
    assert not leaves_cores_idle(settings, cores)


def test_batches_for_two_cores_are_too_small_for_many():
    settings = ServingConfig(preferred_batch_sizes=(16, 64))
    assert not leaves_cores_idle(settings, 4)
    assert leaves_cores_idle(settings, 5)
