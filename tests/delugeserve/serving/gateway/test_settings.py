"""The settings file."""

from __future__ import annotations

import json

import pytest

from delugeserve.errors import UsageError
from delugeserve.serving.gateway.settings import GatewayLimits, GatewaySettings, read_settings


def test_settings_are_read_as_they_were_written(tmp_path):
    settings = GatewaySettings("127.0.0.1:8001", 8080, limits=GatewayLimits(images=3))
    settings.write(tmp_path / "settings.json")
    assert read_settings(tmp_path / "settings.json") == settings


def test_limits_and_all_else_but_ports_have_defaults(tmp_path):
    (tmp_path / "settings.json").write_text('{"grpc": "127.0.0.1:8001", "port": 8080}')
    assert read_settings(tmp_path / "settings.json").limits == GatewayLimits()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"grpc": "a:1", "port": "8080"}', '{"grpc": "a:1", "prt": 1}']
)
def test_damaged_settings_are_refused(tmp_path, text):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(UsageError):
        read_settings(tmp_path / "settings.json")


def test_settings_that_are_missing_are_refused(tmp_path):
    with pytest.raises(UsageError):
        read_settings(tmp_path / "settings.json")


@pytest.mark.parametrize("limit", ["requests", "seconds"])
def test_a_limit_must_be_above_zero(tmp_path, limit):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"grpc": "a:1", "port": 1, "limits": {limit: 0}}))
    with pytest.raises(UsageError):
        read_settings(file)
