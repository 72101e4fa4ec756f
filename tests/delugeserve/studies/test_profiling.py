"""Every form of a network can be profiled, and the command says what it measured."""

import json

import pytest

from delugeserve.errors import UsageError
from delugeserve.studies import profiling
from delugeserve.studies.profiling import (
    VARIANTS,
    Sample,
    measure,
    memory_ratio,
    profile,
    speed_ratio,
)
from delugeserve.zoo import find_model

DELUGENET38 = find_model("delugenet38")


@pytest.mark.parametrize(
    ("phase", "name"),
    [(phase, name) for name, variant in VARIANTS.items() for phase in variant.phases],
)
def test_every_variant_runs(phase, name):
    sample = measure(DELUGENET38, 2, "bf16", name, phase, steps=1)
    assert sample.seconds > 0


def test_the_command_measures_in_new_processes(run, tmp_path):
    options = (
        "--batch-size",
        "2",
        "--csv",
        tmp_path / "p.csv",
        "--rounds",
        "1",
        "--variants",
        "once",
        "--precision",
        "fp32",
    )
    status, out, err = run("profile", "--model", "delugenet38", *options, "--json")
    assert status == 0, err
    assert "round 1 of 1: training, once" in err
    report = json.loads(out)
    assert report["model"] == "delugenet38"
    assert report["precision"] == "fp32"
    assert report["batch"] == 2
    assert report["machine"]
    assert report["paper_gb"]["Wide-DelugeNet-146"] == {"training": 2.8, "inference": 0.61}
    training, inference = report["measured"]
    assert (training["phase"], inference["phase"]) == ("training", "inference")
    (sample,) = training["samples"]
    # Parameters, gradients and momentum at the least, in float32.
    assert sample["peak_bytes"] > 3 * 4 * 0.4e6
    assert sample["cpu_seconds"] > 0
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 3


def test_ratios_are_taken_within_a_round():
    def rounds(*figures):
        return [Sample(seconds, seconds, peak) for seconds, peak in figures]

    samples = {
        ("training", "per-reader"): rounds((1.0, 100), (8.0, 100)),
        ("training", "once"): rounds((0.5, 60), (4.0, 50)),
    }
    assert speed_ratio(samples, "training", "once") == [2, 2]
    assert memory_ratio(samples, "training", "once") == [0.6, 0.5]


def test_a_baseline_is_refused():
    with pytest.raises(UsageError, match="baseline38_1x1"):
        profile(find_model("baseline38_1x1"), 2, "fp32")


def test_an_unknown_variant_suggests_the_nearest(run):
    status, out, err = run("profile", "--model", "delugenet38", "--variants", "once,fusd")
    assert (status, out) == (2, "")
    assert "Did you mean 'fused'?" in err


def test_a_form_is_measured_once_however_often_it_is_named(monkeypatch, run):
    asked = []
    monkeypatch.setattr(profiling, "profile", lambda *args, **_: asked.append(args) or {})
    options = ("--variants", "folded,once,folded", "--batch", "8", "--json")
    run("profile", "--model", "delugenet38", *options)
    ((_, batch_size, _, names),) = asked
    assert names == ["folded", "once"]
    assert batch_size == 8, "the flag of earlier versions"


def test_too_little_memory_is_said(run):
    status, out, err = run(
        "profile", "--model", "delugenet38", "--batch-size", "100000000", "--variants", "once"
    )
    assert (status, out) == (1, "")
    assert "1228800000000 bytes" in err
    assert err.rstrip().endswith("--batch-size.")
