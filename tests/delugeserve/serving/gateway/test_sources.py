"""What the supervisor's status file adds to the page of metrics."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from delugeserve.serving.gateway.exposition import write_page
from delugeserve.serving.gateway.settings import GatewaySettings
from delugeserve.serving.gateway.sources import find_sources

STATUS = {
    "state": "changing",
    "release": {"id": "r1", "versions": {"colour": 2, "unversioned": None}},
    "canary": {"release": {"id": "r2", "versions": {}}, "share": 0.05},
    "rejected": {"release": {"id": "r0", "versions": {}}, "reason": "another answer"},
    "replicas": [
        {
            "name": "replica-1",
            "state": "active",
            "release": "r1",
            "metrics": "http://127.0.0.1:1/metrics",
            "memory_bytes": 1000,
        },
        {"name": "replica-2", "state": "starting", "release": "r2", "metrics": None},
    ],
    "parts": [{"name": "front", "running": True, "starts": 3}],
    "crash_loops": ["it ends"],
    "counters": {"replica.lost": 4},
    "envoy_admin": "127.0.0.1:2",
}


def _now():
    return datetime.now(timezone.utc)


@pytest.fixture
def read(tmp_path):
    def read(status):
        file = tmp_path / "status.json"
        file.write_text(json.dumps(status))
        settings = GatewaySettings("a:1", 1, replicas={"fixed": "http://b"}, status=str(file))
        return find_sources(settings)

    return read


def _samples(sources):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(write_page(sources.families))
        for sample in family.samples
    }


def test_replicas_and_envoy_are_found_where_the_status_says(read):
    sources = read(STATUS)
    assert sources.replicas == {"fixed": "http://b", "replica-1": "http://127.0.0.1:1/metrics"}
    assert sources.envoy == "http://127.0.0.1:2/stats/prometheus"


def test_the_status_becomes_metrics(read):
    samples = _samples(read({**STATUS, "updated": _now().isoformat()}))
    assert samples["delugeserve_supervisor_up",] == 1
    assert samples["delugeserve_server_state", ("state", "changing")] == 1
    assert samples["delugeserve_server_state", ("state", "degraded")] == 0
    assert samples["delugeserve_replicas", ("state", "active")] == 1
    assert samples["delugeserve_replicas", ("state", "standby")] == 0
    assert samples["delugeserve_replica_memory_bytes", ("replica", "replica-1")] == 1000
    assert samples["delugeserve_served_version", ("model", "colour")] == 2
    assert samples["delugeserve_canary_share",] == 0.05
    assert samples["delugeserve_release_rejected",] == 1
    assert samples["delugeserve_crash_loops",] == 1
    assert samples["delugeserve_part_running", ("part", "front")] == 1
    assert samples["delugeserve_part_starts_total", ("part", "front")] == 3
    assert samples["delugeserve_events_total", ("event", "replica.lost")] == 4
    info = [key for key in samples if key[0] == "delugeserve_replica_info"]
    assert len(info) == 2


@pytest.mark.parametrize("updated", [None, "never", "2020-01-01T00:00:00", 5])
def test_a_supervisor_that_does_not_write_any_more_is_down(read, updated):
    assert _samples(read({**STATUS, "updated": updated}))["delugeserve_supervisor_up",] == 0
    old = (_now() - timedelta(seconds=60)).isoformat()
    assert _samples(read({**STATUS, "updated": old}))["delugeserve_supervisor_up",] == 0


def test_without_a_status_the_settings_count(tmp_path):
    settings = GatewaySettings(
        "a:1", 1, replicas={"a": "http://b"}, envoy="http://c", status=str(tmp_path / "none")
    )
    sources = find_sources(settings)
    assert (sources.replicas, sources.envoy) == ({"a": "http://b"}, "http://c")
    assert _samples(sources) == {("delugeserve_supervisor_up",): 0}


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "state", "metrics", "share"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=50)
@given(values=st.dictionaries(st.sampled_from(sorted([*STATUS, "updated"])), JSON))
def test_a_status_of_another_form_costs_metrics_and_never_the_page(values, tmp_path_factory):
    file = tmp_path_factory.mktemp("status") / "status.json"
    file.write_text(json.dumps({**STATUS, **values}))
    sources = find_sources(GatewaySettings("a:1", 1, status=str(file)))
    list(text_string_to_metric_families(write_page(sources.families)))
