"""Errors from a server's log and exit status."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from delugeserve.artifacts.repository import StoredModel
from delugeserve.errors import PortError, ServerError
from delugeserve.serving.guardian import CANNOT_RUN
from delugeserve.serving.triton import diagnosis

PORTS = {"grpc": 8001, "http": 8000, "metrics": None}
TABLE = """\
+-------+---------+-----------------------------------------------------------+
| Model | Version | Status                                                    |
+-------+---------+-----------------------------------------------------------+
| good  | 1       | READY                                                     |
| bad   | 1       | UNAVAILABLE: Internal: TritonModelException: {reason:<12} |
+-------+---------+-----------------------------------------------------------+
error: creating server: Internal - failed to load all models"""


def explain(text, models=("bad", "good"), status=1):
    error = diagnosis.explain_failed_start(
        status, text.splitlines(), models, PORTS, Path("repository")
    )
    assert error.problem.endswith(".")
    return error


def test_a_port_that_was_taken_in_the_meantime():
    error = explain("failed to start HTTP service: Socket '127.0.0.1:8000' already in use")
    assert isinstance(error, PortError)
    assert (error.port, error.endpoint) == (8000, "http")


def test_models_that_did_not_load():
    error = explain(TABLE.format(reason="no good"))
    assert isinstance(error, ServerError)
    assert error.reasons == {"bad": "no good."}
    assert "delugeserve doctor --repository repository" in error.remedy
    assert error.remedy.endswith("--model good")
    assert error.log_tail.endswith("failed to load all models")


def test_with_no_other_model_none_is_suggested():
    error = explain(TABLE.format(reason="no good"), ["bad"])
    assert "--model" not in error.remedy


@pytest.mark.parametrize(
    "reason",
    [
        "Unable to initialize shared memory key 'x' to requested size (1048576 bytes). "
        "Error: No space left on device",
        "Failed to increase the shared memory pool size for key 'x' to 67108864 bytes.",
    ],
    ids=["load", "warm-up"],
)
def test_too_little_shared_memory(reason):
    error = explain(TABLE.format(reason=reason))
    assert "--shm-size" in error.remedy
    assert list(error.reasons) == ["bad"]
    stored = StoredModel("bad", Path("repository/bad"), "onnxruntime", True, 1)
    first = diagnosis.explain_no_answer(stored, reason)
    assert (first.remedy, list(first.reasons)) == (error.remedy, ["bad"])


@pytest.mark.parametrize("cause", ["Read-only file system", "Permission denied"])
def test_shared_memory_that_cannot_be_written(cause):
    reason = (
        "Unable to initialize shared memory key 'x' to requested size (1048576 bytes). If you are "
        "running Triton inside docker, use '--shm-size' flag to control the shared memory region "
        f"size. Each Python backend model instance requires at least 1 MB. Error: {cause}"
    )
    error = explain(TABLE.format(reason=reason))
    assert cause in error.problem
    assert "--shm-size" not in error.remedy
    assert "mode=1777" in error.remedy


def test_a_server_for_another_machine():
    error = explain(f"error: creating server: {CANNOT_RUN} /opt/tritonserver: Exec format error")
    assert "/opt/tritonserver: Exec format error" in error.problem
    assert "--tritonserver" in error.remedy


def test_a_server_that_dies_while_it_loads():
    error = explain("loading: bad:1", status=128 + signal.SIGSEGV)
    assert "SIGSEGV" in error.problem
    assert "delugeserve doctor --repository repository" in error.remedy
    assert error.log_tail == "loading: bad:1"
    killed = explain("loading: bad:1", status=128 + signal.SIGKILL)
    assert "--model" in killed.remedy
    assert "doctor" not in killed.remedy


def test_a_server_that_gives_no_reason():
    error = explain("one\ntwo")
    assert error.log_tail == "one\ntwo"
    assert error.remedy.endswith("Last log lines:\none\ntwo")


@pytest.mark.parametrize(
    ("status", "name"),
    [(128 + signal.SIGSEGV, "SIGSEGV"), (-signal.SIGKILL, "SIGKILL"), (1, "exit status 1")],
)
def test_a_server_that_died(status, name):
    error = diagnosis.explain_exit(status, ["last line"])
    assert name in error.problem
    assert error.log_tail == "last line"
    assert ("--model" in error.remedy) == (name == "SIGKILL")


def test_a_model_that_died():
    error = diagnosis.explain_dead_model("tiny", ["last line"])
    assert list(error.reasons) == ["tiny"]
    assert error.log_tail == "last line"
