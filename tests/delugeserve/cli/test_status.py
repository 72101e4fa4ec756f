"""``delugeserve status``, with status files but without servers."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
from server_status import server_status

from delugeserve.serving.fleet.journal import Record
from delugeserve.serving.fleet.status import (
    CanaryStatus,
    PartStatus,
    RejectedStatus,
    ReleaseStatus,
    ReplicaStatus,
    StatusFile,
    Traffic,
)

TIME = "2026-01-01T10:00:00.000+00:00"
ONE, TWO = (ReleaseStatus(key, {"net": number}) for key, number in (("a", 1), ("b", 2)))
STATUS = server_status(
    Path("/srv/models"),
    state="degraded",
    started=TIME,
    metrics="http://127.0.0.1:8002/metrics",
    models=("net",),
    release=ONE,
    rejected=RejectedStatus(TWO, "It answers wrongly."),
    replicas=(
        ReplicaStatus("replica-1", "active", "a", TIME, pid=7, memory_bytes=3 << 20),
        ReplicaStatus("replica-2", "starting", "a", TIME),
    ),
    parts=(PartStatus("front", running=True, starts=2), PartStatus("gateway", False, 1)),
    events=(Record(TIME, "replica.lost", "replica-0 is lost: [It] died."),),
)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write the status of a running server."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    file = StatusFile()
    yield file.write
    file.remove()


def test_what_runs_is_shown(write, run):
    write(STATUS)
    status, out, _ = run("status")
    assert status == 0
    facts = dict(line.split(maxsplit=1) for line in out.splitlines() if " " in line)
    assert facts["server"].startswith(f"degraded, process {os.getpid()}, since ")
    assert facts["serves"] == "net version 1"
    assert facts["rejected"] == "net version 2: It answers wrongly."
    assert facts["front"] == "front running (started 2 times), gateway down"
    assert facts["replica-1"].split()[:4] == ["active", "net", "version", "1"]
    assert facts["replica-1"].split()[-3:] == ["7", "3", "MiB"]
    assert out.splitlines()[-1].endswith("replica-0 is lost: [It] died.")


def test_a_canary_is_compared_with_the_others(write, run):
    canary = CanaryStatus(TWO, 0.05, Traffic(200, 3, 1.25, 9.0), Traffic(3800, 0, 1.0, 4.0))
    write(dataclasses.replace(STATUS, canary=canary))
    _, out, _ = run("status")
    assert "net version 2, 5.0% of the requests" in out
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert lines["canary"][-4:] == ["200", "1.50%", "1.2", "9.0"]
    assert lines["others"] == ["3,800", "0.00%", "1.0", "4.0"]


def test_json_has_everything(write, run):
    write(STATUS)
    status, out, _ = run("status", "--json")
    (found,) = json.loads(out)
    assert status == 0
    assert found["replicas"][0]["memory_bytes"] == 3 << 20
    assert found["rejected"]["reason"] == "It answers wrongly."


def test_without_a_server_the_exit_status_is_1(write, run, tmp_path):
    assert run("status")[0] == 1
    assert run("status", "--json")[:2] == (1, "[]\n")
    write(STATUS)
    status, out, err = run("status", "--repository", tmp_path)
    assert (status, out) == (1, "")
    assert str(tmp_path) in err
