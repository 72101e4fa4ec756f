"""The examples without a server; tests/system/test_client.py runs them with one."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "clients" / "examples").glob("*.py"))
NOWHERE = "127.0.0.1:1"

pytestmark = pytest.mark.slow  # each starts an interpreter that imports numpy and gRPC


def run(example, *arguments):
    command = [sys.executable, str(example), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_help(example):
    done = run(example, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--url" in done.stdout
    assert len(example.read_text().splitlines()) <= 45  # short enough to read and copy


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_no_server(example, tmp_path):
    positional = [] if "latency" in example.name else [tmp_path]
    done = run(example, *positional, "--url", NOWHERE)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
