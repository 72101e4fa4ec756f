"""The command: options, the order of measurements, and a run that is stopped and goes on."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from peer_model import MODEL

from benchmarks.peers import __main__ as command
from benchmarks.peers import options
from benchmarks.peers.__main__ import main
from benchmarks.peers.interface import GRPC, JPEG, PIXELS
from benchmarks.peers.outcome import Outcome, Plan
from benchmarks.peers.workload import Workload

pytest.importorskip("matplotlib", reason="the plot needs the extra 'benchmark'")


@pytest.mark.parametrize(("text", "value"), [("100ms", 0.1), ("2s", 2), ("50", 0.05)])
def test_durations(text, value):
    assert options.seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "0ms", "-1s", "fast", "1h"])
def test_what_is_not_a_duration_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        options.seconds(text)


def test_options():
    chosen = options.parse(
        [
            "--output",
            "x",
            "--peers",
            "ray,litserve,ray",
            "--workloads",
            "jpeg",
            "--batch-delay",
            "2ms,0",
        ]
    )
    assert chosen.peers == ["ray", "litserve"]
    assert chosen.workloads == [JPEG]
    assert chosen.batch_delay == [0.002, 0]
    assert chosen.model == ["delugenet38"]


def test_an_unknown_peer_is_refused_with_those_that_there_are(capsys):
    with pytest.raises(SystemExit):
        options.parse(["--output", "x", "--peers", "torchserve"])
    assert "litserve" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_an_error_before_anything_is_installed(tmp_path, capsys):
    options_ = ["--output", str(tmp_path / "out"), "--repository", str(tmp_path / "none")]
    assert main([*options_, "--cache", str(tmp_path / "cache")]) == 2
    assert not (tmp_path / "cache").exists()
    assert "error: " in capsys.readouterr().err


def order(*arguments: str) -> list[tuple[str, str, str]]:
    chosen = options.parse(["--output", "x", *arguments])
    return [(cell.model, cell.workload, cell.peer) for cell in command._order(chosen)]


def test_the_most_important_peers_come_first_with_every_model():
    models, named = ("a", "b"), ("delugeserve", "fastapi", "litserve", "ray")
    found = order("--rounds=1", "--model=a", "--model=b", "--workloads=pixels,grpc")
    first = [
        (model, *what)
        for model in models
        for what in [*((PIXELS, name) for name in named[:3]), (GRPC, "delugeserve")]
    ]
    assert found[:8] == first
    assert [one for one in found[8:] if one[0] == "a"] == [
        ("a", PIXELS, "mlserver"),
        ("a", PIXELS, "bentoml"),
        ("a", PIXELS, "ray"),
        ("a", GRPC, "mlserver"),
    ]


def test_every_second_round_runs_in_reverse_order():
    found = order("--rounds=2", "--model=a", "--peers=delugeserve,ray", "--workloads=pixels")
    assert [peer for _, _, peer in found] == ["delugeserve", "ray", "ray", "delugeserve"]


@pytest.fixture
def measured(monkeypatch):
    """Replace servers and tests; return the peers that were measured."""
    names = []

    def measure(task, search, on_trial):
        names.append(task.cell.peer)
        if task.cell.peer == "litserve":
            return Outcome(task.cell, "1.0", "same", "2026-11-28T10:20:00", failure="It died.")
        return Outcome(task.cell, "1.0", "same", "2026-11-28T10:20:00", rate=100.0)

    work = Workload(PIXELS, [b""], None, None)  # type: ignore[arg-type]
    monkeypatch.setattr(command, "measure", measure)
    monkeypatch.setattr(command, "identify", lambda _: "same")
    monkeypatch.setattr(command, "find_model", lambda *_: MODEL)
    monkeypatch.setattr(command, "prepare", lambda *_: [work])
    monkeypatch.setattr(command.environments, "find_python", lambda *_: Path("python"))
    monkeypatch.setattr(command.environments, "find_version", lambda *_: "1.0")
    return names


RUN = ["--peers=delugeserve,fastapi,litserve", "--workloads=pixels", "--rounds=1"]


def test_a_dead_peer_ends_nothing_and_is_tried_again_if_asked(measured, tmp_path):
    run = [*RUN, f"--output={tmp_path}"]
    assert main(["--peers=litserve,ray", *run[1:]]) == 0
    assert measured == ["litserve", "ray"]
    assert main(run) == 0
    assert measured == ["litserve", "ray", "delugeserve", "fastapi"]
    assert main([*run, "--retry-failed"]) == 0
    assert measured[4:] == ["litserve"]
    assert len(Plan.read(tmp_path).cells) == 4
    assert "LitServe 1.0: It died." in (tmp_path / "peers.md").read_text()


def test_after_the_time_limit_what_is_missing_is_said(measured, tmp_path, monkeypatch):
    moments = iter([0.0, 0.0, 30.0, 61.0])
    monkeypatch.setattr(command.time, "monotonic", lambda: next(moments))
    assert main([*RUN, f"--output={tmp_path}", "--time-limit=1"]) == 0
    assert measured == ["delugeserve", "fastapi"]
    assert "| LitServe | not measured |" in (tmp_path / "peers.md").read_text()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)])
def test_an_interrupted_run_leaves_its_table(measured, tmp_path, monkeypatch, error):
    measure = command.measure

    def interrupted(task, *rest):
        if task.cell.peer == "fastapi":
            raise error
        return measure(task, *rest)

    monkeypatch.setattr(command, "measure", interrupted)
    try:
        status = main([*RUN, f"--output={tmp_path}"])
    except SystemExit as ended:
        status = ended.code
    assert status in (130, 143)
    assert "| FastAPI + uvicorn | not measured |" in (tmp_path / "peers.md").read_text()


def test_a_folder_with_other_settings_is_refused(measured, tmp_path, capsys):
    run = [*RUN, f"--output={tmp_path}"]
    assert main(run) == 0
    before = json.loads((tmp_path / "plan.json").read_text())
    assert main([*run, "--precision=0.2"]) == 2
    assert "precision" in capsys.readouterr().err
    assert json.loads((tmp_path / "plan.json").read_text()) == before
