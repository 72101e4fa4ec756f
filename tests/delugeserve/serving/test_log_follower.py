"""The output of a process is followed to its end."""

from __future__ import annotations

import io
from pathlib import Path

from delugeserve.serving.log_follower import LogFollower


def test_a_full_disk_does_not_stop_the_reading(tmp_path):
    with Path("/dev/full").open("w", encoding="utf-8", buffering=1) as file:
        follower = LogFollower(io.BytesIO(b"one\ntwo\nthree\n"), file)
        assert follower.finish() == ["one", "two", "three"]


def test_the_log_is_written_to_a_file(tmp_path):
    path = tmp_path / "server.log"
    with path.open("w", encoding="utf-8") as file:
        follower = LogFollower(io.BytesIO(b"one\ntw\xffo\n"), file)
        assert follower.finish() == ["one", "tw\N{REPLACEMENT CHARACTER}o"]
    assert path.read_text() == "one\ntw\N{REPLACEMENT CHARACTER}o\n"
