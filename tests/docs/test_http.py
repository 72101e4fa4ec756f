"""docs/http.md agrees with the gateway."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the gateway needs the extra 'server'")

from delugeserve.artifacts.typed_json import from_json
from delugeserve.serving.gateway import pages
from delugeserve.serving.gateway.settings import GatewayLimits, GatewaySettings
from delugeserve_client.formats import FORMATS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "http.md").read_text()
MIB = 2**20


def _section(title):
    return re.split(r"^##+ ", PAGE.split(f" {title}\n", 1)[1], maxsplit=1, flags=re.M)[0]


def test_the_statuses_are_those_of_the_description():
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", _section("Errors"), re.M)
    assert {int(status): text for status, text in rows} == pages.STATUSES


def test_the_limits_are_the_defaults():
    section, limits = _section("Limits"), GatewayLimits()
    for row in (
        f"one image | {limits.image_bytes // MIB} MiB",
        f"a body | {limits.request_bytes // MIB} MiB",
        f"images in a request | {limits.images} |",
        f"requests at once | {limits.requests} |",
        f"together | {limits.buffered_bytes // MIB} MiB",
        f"to arrive | {limits.body_seconds:g} s",
        f"for an answer | {limits.seconds:g} s",
    ):
        assert row in section


def test_the_paths_and_parameters_are_all_there():
    description = pages.openapi(GatewayLimits())
    for path in (*description["paths"], "/openapi.json", "/docs"):
        assert re.search(rf"`(GET|POST) {path}`", PAGE)
    for parameter in description["paths"]["/classify"]["post"]["parameters"]:
        assert f"| `{parameter['name']}` |" in PAGE


def test_the_metrics_are_on_the_page_and_ours_are_all_described():
    names = set((ROOT / "tests" / "deploy" / "metric_names.txt").read_text().split())
    told = set(re.findall(r"`((?:delugeserve|envoy|nv)_[a-z_]+)`", _section("Metrics")))
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names if name[0] == "d"}
    assert {name for name in told if name.startswith("delugeserve_")} == ours
    assert {name for name in told if not name.startswith("delugeserve_")} <= names


def test_the_settings_are_valid_and_all_there():
    section = _section("On its own")
    (example,) = re.findall(r"^```json\n(.*?)^```", section, re.S | re.M)
    from_json(GatewaySettings, json.loads(example))
    for field in (*dataclasses.fields(GatewaySettings), *dataclasses.fields(GatewayLimits)):
        assert f"`{field.name}`" in section


def test_every_format_is_named():
    for name in FORMATS:
        said = {"WEBP": "WebP", "JPEG2000": "JPEG 2000", "MPO": "JPEG"}.get(name, name)
        assert said in _section("Classify")
