"""``delugeserve classify`` and ``benchmark`` where no server is needed to say what is wrong."""

import subprocess
import sys

import pytest

NOWHERE = "127.0.0.1:1"


def delugeserve(*arguments):
    command = [sys.executable, "-m", "delugeserve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("command", [("classify", "cat.jpg"), ("benchmark",)])
def test_no_server(command):
    run = delugeserve(*command, "--url", NOWHERE)
    assert run.returncode == 2
    assert run.stdout == ""
    expected = f"error: No server answers at {NOWHERE}. Start one with: delugeserve serve"
    assert run.stderr.strip() == expected


@pytest.mark.parametrize(
    "options",
    [
        ("--concurrency", "0"),
        ("--concurrency", "1,,2"),
        ("--concurrency", "-1"),
        ("--batch-size", "many"),
        ("--duration", "0"),
        ("--warmup", "-1"),
        ("--protocol", "carrier-pigeon"),
        ("--csv", "/no/such/folder/figures.csv"),
        ("--plot", "/"),
        ("--plot", "figures.gif"),
        ("--url", "ftp://localhost"),
    ],
)
def test_benchmark_refuses_senseless_options(options):
    run = delugeserve("benchmark", *options)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr


def test_classify_refuses_to_name_no_class():
    assert delugeserve("classify", "cat.jpg", "--top-k", "0").returncode == 2
