"""The Grafana dashboard and the Prometheus rules."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

pytest.importorskip("starlette", reason="the metrics page needs the extra 'server'")

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "delugeserve.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
TESTS = DEPLOY / "prometheus" / "alerts_test.yaml"

# Words of PromQL and labels are followed or preceded by other things than names of metrics are.
_METRIC = re.compile(r"\b((?:delugeserve|envoy|nv)_[a-z0-9_]+|up)\b(?=[{\[ )]|$)")
_RANGES = {"$__rate_interval": "5m", "$__interval": "5m", "$instance": ".*", "$model": ".*"}


@pytest.fixture(scope="module")
def names():
    """Names of all metrics on the page of a server with requests, errors and a canary."""
    return set((Path(__file__).parent / "metric_names.txt").read_text().split())


def _dashboard_queries():
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def _alerts():
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return group["rules"]


def _promtool(*arguments):
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("needs promtool, of Debian's package prometheus")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)


def test_every_metric_of_the_dashboard_and_of_the_alerts_is_on_the_page(names):
    queries = [*_dashboard_queries(), *((rule["alert"], rule["expr"]) for rule in _alerts())]
    assert len(queries) > 50
    asked = {}
    for title, query in queries:
        # The labels that a query groups by are no metrics.
        text = re.sub(r"\bby \([^)]*\)", "", re.sub(r"\{[^}]*\}", "{}", query))
        for name in _METRIC.findall(text):
            asked.setdefault(name, title)
    assert len(asked) > 30
    assert {name: title for name, title in asked.items() if name not in names | {"up"}} == {}


def test_the_dashboards_panels_do_not_overlap_and_have_an_id_each():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = {}
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]


def test_every_alert_says_what_to_do_and_has_a_test():
    rules = _alerts()
    tested = TESTS.read_text()
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["annotations"]["action"].endswith(".")
        assert f'alertname="{rule["alert"]}"' in tested
    assert len({rule["alert"] for rule in rules}) == len(rules)


def test_the_alerts_fire_when_they_should():
    done = _promtool("test", "rules", TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_reads_its_configuration():
    done = _promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_queries_of_the_dashboard_are_valid(tmp_path):
    rules = []
    for number, (_, query) in enumerate(_dashboard_queries()):
        for variable, value in _RANGES.items():
            query = query.replace(variable, value)
        rules.append({"record": f"query_{number}", "expr": query})
    file = tmp_path / "queries.yaml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = _promtool("check", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr
