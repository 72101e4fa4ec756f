"""The systemd unit."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys

import pytest
from deployment import DEPLOY

UNIT = DEPLOY / "systemd" / "delugeserve.service"
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze"
)


@pytest.fixture
def installed(tmp_path):
    """The unit with a program that exists here."""
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace("/opt/delugeserve/bin/delugeserve", sys.executable))
    return path


def analyze(*arguments):
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False
    )


@needs_systemd
def test_systemd_accepts_it(installed):
    result = analyze("verify", "--man=no", str(installed))
    assert (result.returncode, result.stderr) == (0, "")
    installed.write_text(installed.read_text().replace("ProtectHome=", "ProtectHouse="))
    assert "ProtectHouse" in analyze("verify", "--man=no", str(installed)).stderr


@needs_systemd
def test_it_is_hardened(installed):
    result = analyze("security", "--offline=yes", "--no-pager", str(installed))
    match = re.search(r"Overall exposure level for \S+: ([\d.]+)", result.stdout)
    if match is None:
        pytest.skip(f"this systemd-analyze has no offline check: {result.stderr.strip()}")
    assert float(match[1]) <= 2.0


def test_the_drop_in_for_gpus_changes_the_service_alone():
    parser = configparser.ConfigParser(strict=False)
    parser.optionxform = str
    parser.read_string((DEPLOY / "systemd" / "gpu.conf").read_text())
    assert parser.sections() == ["Service"]
    assert parser["Service"]["PrivateDevices"] == "no"


def test_every_variable_has_a_value():
    settings = (DEPLOY / "systemd" / "delugeserve.env").read_text()
    given = set(re.findall(r"^(\w+)=", settings, re.MULTILINE))
    (start,) = re.findall(r"^ExecStart=(.*)", UNIT.read_text(), re.MULTILINE)
    assert set(re.findall(r"\$\{?(\w+)", start)) == given
