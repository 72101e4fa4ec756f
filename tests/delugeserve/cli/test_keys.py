"""``delugeserve keys``: keys are printed once and kept as digests."""

from __future__ import annotations

import hashlib
import json

import pytest

from delugeserve.errors import UnknownNameError, UsageError


def test_add_list_and_remove(run, tmp_path):
    file = ("--file", tmp_path / "keys.txt")
    status, out, err = run("keys", "add", "alice", *file)
    assert status == 0
    key = out.strip()
    assert key not in err
    digest = hashlib.sha256(key.encode()).hexdigest()
    assert key not in (tmp_path / "keys.txt").read_text()
    listed = json.loads(run("keys", "list", *file, "--json")[1])
    assert listed == [{"name": "alice", "sha256": digest}]
    assert "alice" in run("keys", "list", *file)[1]
    added = json.loads(run("keys", "add", "bob", *file, "--json")[1])
    assert added["name"] == "bob"
    removed = json.loads(run("keys", "remove", "alice", *file, "--json")[1])
    assert removed == {"name": "alice", "removed": 1}
    assert [one["name"] for one in json.loads(run("keys", "list", *file, "--json")[1])] == ["bob"]


@pytest.mark.parametrize(
    "arguments", [("add",), ("list", "alice"), ("remove",), ("add", "a b")], ids=" ".join
)
def test_wrong_arguments(error, tmp_path, arguments):
    assert isinstance(error("keys", *arguments, "--file", tmp_path / "keys.txt"), UsageError)
    assert not (tmp_path / "keys.txt").exists()


def test_a_client_without_a_key(error, run, tmp_path):
    file = ("--file", tmp_path / "keys.txt")
    run("keys", "add", "alice", *file)
    caught = error("keys", "remove", "alic", *file)
    assert isinstance(caught, UnknownNameError)
    assert caught.nearest == "alice"
