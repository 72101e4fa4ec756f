"""Two trials with a real server under a short load; the command is interrupted and resumed."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from delugeserve.artifacts.model_config import read_config
from delugeserve.tuning import plan_tuning, tune
from delugeserve.tuning.measure import LoadSettings, Objective

psutil = pytest.importorskip("psutil", reason="needs delugeserve[server]")
pytest.importorskip("optuna", reason="needs delugeserve[tune]")
pytest.importorskip("mlperf_loadgen", reason="needs delugeserve[benchmark]")
if shutil.which("tritonserver") is None:
    pytest.importorskip("pytriton.constants", reason="there is no tritonserver (nvidia-pytriton)")

BUDGET = 20.0  # seconds: a busy machine keeps it


@pytest.fixture
def repository(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "model_repository")


def test_two_trials(repository, tmp_path):
    load = LoadSettings(
        Objective.THROUGHPUT, latency_budget=BUDGET, percentile=0.5, duration=0.5, min_queries=20
    )

    def make_plan():
        return plan_tuning(repository, "tiny", output=tmp_path / "study", load=load, trials=2)

    plan = make_plan()
    before = read_config(repository / "tiny")
    result = tune(plan)
    assert [trial.error for trial in result.trials] == ["", ""]
    assert result.before.candidate == plan.before
    assert all(trial.measurement.alone_ms > 0 for trial in result.trials)
    now = read_config(repository / "tiny")
    if result.written:
        assert now.instances == result.best.candidate.instances
    else:
        assert now == before
    # Nothing is left to try, also where the settings that are there now were found by chance.
    assert tune(make_plan()).trials == result.trials


@pytest.fixture
def sigint_is_heard():
    """A shell's background jobs, such as a whole suite, ignore SIGINT, and so do their children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint_is_heard")
def test_a_signal_stops_the_server_and_the_command_resumes(repository, tmp_path):
    command = [
        *(sys.executable, "-m", "delugeserve", "tune", "tiny", "--repository", str(repository)),
        *("--latency-budget", f"{BUDGET:g}s", "--objective", "throughput"),
        *("--duration", "0.5", "--output", str(tmp_path / "study"), "--no-write", "--json"),
    ]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        first = subprocess.Popen(  # with more trials than it can make before it is stopped
            [*command, "--trials", "500"],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        while not (servers := _servers(first.pid)):
            assert first.poll() is None, first.stderr.read()
            time.sleep(0.05)
        if number == signal.SIGINT:
            busy = subprocess.run(
                command, capture_output=True, env=environment, text=True, check=False
            )
            assert (busy.returncode, "Another process" in busy.stderr) == (2, True)
        first.send_signal(number)
        _, err = first.communicate(timeout=60)
        assert first.returncode == status
        assert "to resume" in err
        assert not any(server.is_running() for server in servers)
        assert not list(tmp_path.glob("delugeserve-tune-*"))
    command += ["--trials", "1"]
    done = subprocess.run(command, capture_output=True, env=environment, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["trials"][0]["measurement"]["images_per_s"] > 0
    assert (tmp_path / "study" / "trials.png").stat().st_size > 1000


def _servers(pid):
    """The tritonservers that a process has started."""
    processes = psutil.Process(pid).children(recursive=True)
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if process.name() == "tritonserver":
                found.append(process)
    return found
