"""KEDA's and Kubernetes' autoscalers scale on the same number, the queue time of a request."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from deployment import KUBERNETES, load

KEDA = load(KUBERNETES / "components" / "keda" / "scaledobject.yaml")
HPA = load(KUBERNETES / "components" / "hpa" / "autoscaler.yaml")
ADAPTER = load(KUBERNETES / "components" / "hpa" / "adapter-values.yaml")
SERVER = load(KUBERNETES / "base" / "server.yaml")


def test_keda_has_what_its_definition_requires():
    """https://keda.sh/docs/latest/reference/scaledobject-spec/ and its page on Prometheus."""
    assert KEDA["apiVersion"] == "keda.sh/v1alpha1"
    spec = KEDA["spec"]
    assert spec.keys() <= {
        "scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval",
        "cooldownPeriod", "idleReplicaCount", "fallback", "advanced", "triggers",
    }  # fmt: skip
    assert {"scaleTargetRef", "triggers"} <= spec.keys()
    assert 0 < spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]
    (trigger,) = spec["triggers"]
    assert trigger["type"] == "prometheus"
    assert trigger["metricType"] == "Value"
    assert {"serverAddress", "query", "threshold"} <= trigger["metadata"].keys()
    # The definition takes strings only.
    assert all(isinstance(value, str) for value in trigger["metadata"].values())


def test_both_scale_the_server():
    name = SERVER["metadata"]["name"]
    assert KEDA["spec"]["scaleTargetRef"]["name"] == HPA["spec"]["scaleTargetRef"]["name"] == name


def test_both_ask_the_same_question():
    (trigger,) = KEDA["spec"]["triggers"]
    (rule,) = ADAPTER["rules"]["external"]
    query = trigger["metadata"]["query"].replace('namespace="delugeserve"', "<<.LabelMatchers>>")
    assert query.split() == rule["metricsQuery"].split()
    (metric,) = HPA["spec"]["metrics"]
    assert metric["external"]["metric"]["name"] == rule["name"]["as"]
    assert metric["external"]["target"] == {
        "type": trigger["metricType"],
        "value": trigger["metadata"]["threshold"],
    }
    assert (
        HPA["spec"]["behavior"]
        == (KEDA["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"])
    )
    assert HPA["spec"]["minReplicas"] == KEDA["spec"]["minReplicaCount"]
    assert HPA["spec"]["maxReplicas"] == KEDA["spec"]["maxReplicaCount"]


def test_the_query_divides_time_by_requests():
    query = KEDA["spec"]["triggers"][0]["metadata"]["query"]
    assert set(re.findall(r"nv_\w+", query)) == {
        "nv_inference_queue_duration_us",
        "nv_inference_request_success",
    }
    assert query.count("(") == query.count(")")
    # No traffic is no queue: never 0/0, and never an empty answer.
    assert "> 0)" in query
    assert query.endswith("or vector(0)")


def test_what_the_query_asks_for_is_on_the_page_of_metrics():
    query = KEDA["spec"]["triggers"][0]["metadata"]["query"]
    names = (Path(__file__).parent / "metric_names.txt").read_text().splitlines()
    assert set(re.findall(r"nv_\w+", query)) <= set(names)


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        # Microseconds and requests of each minute: 60 requests that wait 5 ms each.
        ({"a": ("0+300000x20", "0+60x20")}, 5),
        # The model that waits longest counts, an idle one does not.
        ({"a": ("0+60000x20", "0+60x20"), "b": ("0+1200000x20", "0+60x20")}, 20),
        ({"a": ("0+60000x20", "0+60x20"), "idle": ("7+0x20", "3+0x20")}, 1),
        ({"idle": ("7+0x20", "3+0x20")}, 0),
        ({}, 0),
    ],
)
def test_prometheus_answers_milliseconds(tmp_path, series, expected):
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("needs promtool, of Debian's package prometheus")
    labels = '{{namespace="delugeserve", pod="{}", model="{}"}}'
    test = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": name + labels.format(pod, model), "values": values}
                    for model, both in series.items()
                    for pod in ("x", "y")  # two pods double both numbers
                    for name, values in zip(
                        ("nv_inference_queue_duration_us", "nv_inference_request_success"),
                        both,
                        strict=True,
                    )
                ],
                "promql_expr_test": [
                    {
                        "expr": KEDA["spec"]["triggers"][0]["metadata"]["query"],
                        "eval_time": "10m",
                        "exp_samples": [{"labels": "{}", "value": expected}],
                    }
                ],
            }
        ],
    }
    path = tmp_path / "test.yaml"
    path.write_text(json.dumps(test))
    done = subprocess.run(
        [program, "test", "rules", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
