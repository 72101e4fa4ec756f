"""Ablations: trained, interrupted and resumed for real; figures against ones worked out by hand."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from delugeserve import zoo
from delugeserve.errors import BusyFolderError, StoppedError, UnknownNameError, UsageError
from delugeserve.networks.build import build_network
from delugeserve.networks.checkpoint import load_checkpoint
from delugeserve.studies.ablation import Difference, bootstrap_interval, read_ablation, t_interval
from delugeserve.studies.ablation_plots import draw_ablation
from delugeserve.studies.trials import (
    compared_networks,
    parse_contrasts,
    plan_trials,
    train_missing,
)
from delugeserve.training.config import RunConfig
from delugeserve.training.recipes import find_recipe
from delugeserve.training.records import read_run
from delugeserve.zoo import CIFAR10, Architecture, ModelSpec, Published, find_model

TINY = ModelSpec(
    "tiny", Architecture("tiny", "cifar", (4, 6), (2, 2)), CIFAR10, Published(0.5, None, 20.0)
)
BASELINES = [
    ModelSpec(
        f"tiny_{kind}",
        dataclasses.replace(TINY.architecture, name=f"tiny_{kind}", baseline=kind),
        CIFAR10,
        published,
    )
    for kind, published in (("1x1", Published(0.4, None, 21.5)), ("3x3", None))
]
NAMES = ["tiny", "tiny_1x1", "tiny_3x3"]


@pytest.fixture(autouse=True)
def _tiny_models(monkeypatch):
    tiny = {spec.name: spec for spec in (TINY, *BASELINES)}
    for module in ("zoo", "studies.ablation", "studies.trials"):
        monkeypatch.setattr(f"delugeserve.{module}.MODELS", {**zoo.MODELS, **tiny})


@pytest.fixture
def write_run(tmp_path):
    """Write a finished run of two epochs that ends with an error, or an unfinished one."""

    def write_run(model, seed, error, *, finished=True, **changes):
        suffix = "_fixed" if changes.get("fixed_sums") else ""
        folder = tmp_path / "ablation" / f"{model}{suffix}-seed{seed}"
        folder.mkdir(parents=True)
        recipe = dataclasses.replace(find_recipe("cifar-quick"), epochs=2)
        config = RunConfig(model, recipe, seed, "fp32", "cifar10", **changes)
        (folder / "run.json").write_text(json.dumps(dataclasses.asdict(config)))
        rows = [f"{epoch},0.1,2,2,{error + 2 - epoch:.2f},9" for epoch in (1, 2)]
        heading = "epoch,learning_rate,train_loss,val_loss,val_error,seconds"
        (folder / "log.csv").write_text("\r\n".join([heading, *rows, ""]))
        if finished:
            (folder / f"{model}.safetensors").touch()
        return folder.parent

    return write_run


@pytest.fixture
def report(write_run):
    """The runs of three seeds, whose errors were chosen to be worked out by hand."""
    for model, errors in zip(NAMES, [(10, 11, 12), (11, 13, 12), (15, 16, 17)], strict=True):
        for seed, error in enumerate(errors):
            folder = write_run(model, seed, error)
    return folder


@pytest.mark.slow
def test_the_whole_of_it(run, tiny_cifar, tmp_path):
    """Two seeds of three networks, then a third seed of each, then only the report."""
    output, picture = tmp_path / "ablation", tmp_path / "a.png"
    options = ["--model", "tiny", "--data", tiny_cifar, "--output", output, "--epochs", 1]
    options += ["--precision", "fp32", "--limit", 128]
    status, out, err = run("ablation", *options, "--seeds", 1, "--json")
    assert status == 0, err
    first = json.loads(out)
    assert first["differences"][0]["verdict"] == "too few seeds"

    status, out, err = run("ablation", *options, "--seeds", 2, "--json", "--plot", picture)
    assert status == 0, err
    result = json.loads(out)
    assert result == json.loads((output / "ablation.json").read_text())
    assert [network["name"] for network in result["networks"]] == NAMES
    assert [network["errors"]["0"] for network in result["networks"]] == [
        network["errors"]["0"] for network in first["networks"]
    ], "finished runs stand"
    assert [difference["seeds"] for difference in result["differences"]] == [[0, 1]] * 2
    assert result["settings"]["limit"] == 128
    assert "run 3 of 6: tiny_3x3, seed 0: finished" in err
    assert "run 4 of 6: tiny, seed 1; about " in err, "seed by seed, with an estimate"
    assert picture.read_bytes().startswith(b"\x89PNG")

    before = {path: path.stat().st_mtime_ns for path in output.glob("*/*")}
    assert json.loads(run("ablation", "--output", output, "--report-only", "--json")[1]) == result
    assert {path: path.stat().st_mtime_ns for path in output.glob("*/*")} == before
    listed = json.loads(run("runs", output, "--json")[1])
    assert [row["name"] for row in listed] == [f"{n}-seed{s}" for n in NAMES for s in (0, 1)]
    assert {row["status"] for row in listed} == {"finished"}

    status, out, err = run("ablation", *options, "--epochs", 2)
    assert (status, out) == (2, "")
    assert "--epochs was 1, now 2." in err


@pytest.mark.slow
def test_an_interrupted_one_goes_on_to_the_same_bits(tiny_cifar, tmp_path, at_stage):
    recipe = dataclasses.replace(find_recipe("cifar-quick"), epochs=2, batch_size=20)
    config = RunConfig("tiny", recipe, 0, "fp32", str(tiny_cifar), limit=40)
    whole, stopped = (
        plan_trials(compared_networks(TINY)[:2], 1, tmp_path / name)
        for name in ("whole", "stopped")
    )
    train_missing(whole, config)

    def stop():
        if (tmp_path / "stopped" / "tiny_1x1-seed0").exists():  # in the second run
            raise KeyboardInterrupt

    with pytest.raises(StoppedError):
        train_missing(stopped, config, progress=at_stage("test epoch 2", stop))
    ablation = read_ablation(tmp_path / "stopped", TINY)
    assert [run.name for run in ablation.finished] == ["tiny-seed0"]
    assert ablation.left_out == ("tiny_1x1-seed0",)
    assert (ablation.differences[0].seeds, ablation.differences[0].mean) == ((), None)

    train_missing(stopped, config)
    for one, other in zip(whole, stopped, strict=True):
        file = f"{one.variant.spec.name}.safetensors"
        resumed = load_checkpoint(other.folder / file).state
        for name, tensor in load_checkpoint(one.folder / file).state.items():
            assert torch.equal(tensor, resumed[name]), name


def test_the_figures_by_hand(report):
    ablation = read_ablation(report)
    assert [network.name for network in ablation.networks] == NAMES
    assert [network.mean for network in ablation.networks] == [11, 12, 16]
    assert [network.deviation for network in ablation.networks] == pytest.approx([1, 1, 1])
    assert ablation.networks[1].errors == {0: 11, 1: 13, 2: 12}
    one, three = ablation.differences
    # 1, 2, 0: a mean of 1, a standard deviation of 1, and 4.3027 / sqrt(3) to either side.
    assert one.mean == pytest.approx(1)
    assert one.interval == pytest.approx((1 - 2.48414, 1 + 2.48414), abs=1e-4)
    assert one.verdict == "not significant"
    assert one.published == pytest.approx(1.5)
    assert (three.mean, three.interval, three.verdict) == (5, (5, 5), "better")
    assert three.published is None
    assert ablation.settings["recipe"]["epochs"] == 2


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        (None, "too few seeds"),
        ((-0.1, 0.6), "not significant"),
        ((-0.6, 0.1), "not significant"),
        ((0.0, 0.1), "equal"),
        ((-0.5, 0.5), "equal"),
        ((0.1, 0.2), "better"),
        ((-0.2, -0.1), "worse"),
    ],
)
def test_verdicts(interval, verdict):
    assert Difference("", (0,), 0.0, interval, None, None).verdict == verdict


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=21))
def test_the_interval_is_students(values):
    stats = pytest.importorskip("scipy.stats")
    low, high = t_interval(values)
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    assert low == pytest.approx(np.mean(values) - half, abs=1e-3, rel=1e-4)
    assert high == pytest.approx(np.mean(values) + half, abs=1e-3, rel=1e-4)


def test_the_bootstrap_over_pairs():
    assert bootstrap_interval([1.0]) is None
    assert bootstrap_interval([3.0, 3.0]) == (3, 3)
    values = np.random.default_rng(1).normal(1, 2, 400).tolist()
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values)
    assert (low, high) == pytest.approx(t_interval(values), abs=0.03), "of many they agree"


def test_the_interval_of_few_and_of_many():
    assert t_interval([]) is t_interval([3.0]) is None
    assert t_interval([0.0, 1.0] * 50)[1] - 0.5 == pytest.approx(2.0860 * 0.502519 / 10, rel=1e-3)


@pytest.mark.slow
def test_the_fixed_variant_keeps_equal_weights(run, tiny_cifar, tmp_path):
    output = tmp_path / "ablation"
    options = ["--model", "tiny", "--data", tiny_cifar, "--output", output, "--seeds", 1]
    options += ["--precision", "fp32", "--limit", 128, "--epochs", 1, "--against", "fixed,3x3"]
    options += ["--watch-limit", 7]
    status, out, err = run("ablation", *options, "--json")
    assert status == 0, err
    result = json.loads(out)
    assert [network["name"] for network in result["networks"]] == ["tiny", "tiny_3x3", "tiny_fixed"]
    params = [network["params"] for network in result["networks"]]
    assert params[1] == params[2] < params[0], "all but the cross-layer weights"
    (epoch,) = read_run(output / "tiny-seed0").epochs
    wrong = epoch.val_error * 7 / 100
    assert wrong == pytest.approx(round(wrong), abs=0.01), "of 7 images"
    metrics = json.loads((output / "tiny-seed0" / "metrics.json").read_text())
    assert metrics["num_images"] > 7
    states = [
        load_checkpoint(output / f"{name}-seed0" / "tiny.safetensors").state
        for name in ("tiny", "tiny_fixed")
    ]
    weights = [name for name in states[0] if name.endswith("sum.weight") or ".sums." in name]
    for name in weights:
        trained, fixed = (state[name] for state in states)
        initial = torch.full_like(fixed, 1 / len(fixed) if name.endswith("weight") else 0)
        torch.testing.assert_close(fixed, initial)
        if name.endswith("weight"):
            assert not torch.allclose(trained, initial), name
    stem = "stem.conv.weight"
    assert not torch.equal(states[1][stem], build_network(TINY, seed=0).state_dict()[stem])


def test_the_fixed_variant_is_told_from_the_model_itself(report, write_run):
    for seed, error in enumerate((12, 12, 13)):
        write_run("tiny", seed, error, fixed_sums=True)
    ablation = read_ablation(report)
    assert [network.name for network in ablation.networks] == [*NAMES, "tiny_fixed"]
    assert ablation.networks[0].mean == 11
    assert ablation.networks[3].errors == {0: 12, 1: 12, 2: 13}
    assert ablation.networks[3].published_error is None
    assert ablation.differences[2].mean == pytest.approx(4 / 3)
    assert "fixed_sums" not in ablation.settings
    only = read_ablation(report, TINY, ("fixed",))
    assert [network.name for network in only.networks] == ["tiny", "tiny_fixed"]


def test_networks_without_runs_are_not_reported(write_run):
    write_run("tiny", 0, 10)
    folder = write_run("tiny_3x3", 0, 11)
    assert [network.name for network in read_ablation(folder).networks] == ["tiny", "tiny_3x3"]


def test_contrasts():
    assert parse_contrasts("fixed, 1x1,fixed") == ("1x1", "fixed")
    with pytest.raises(UnknownNameError) as caught:
        parse_contrasts("3x4")
    assert caught.value.nearest == "3x3"
    with pytest.raises(UsageError):
        parse_contrasts(",")


def test_processes_share_the_trials(tmp_path, monkeypatch):
    """What another process trains is passed over, not waited for."""
    config = RunConfig("tiny", find_recipe("cifar-quick"), 0, "fp32", "cifar10")
    trained = []

    def train(spec, config, output, **_):
        if spec.name == "tiny_1x1":
            raise BusyFolderError(output)
        trained.append(output.name)

    monkeypatch.setattr("delugeserve.training.run.train", train)
    train_missing(plan_trials(compared_networks(TINY), 1, tmp_path), config)
    assert trained == ["tiny-seed0", "tiny_3x3-seed0"]


def test_seeds_that_only_one_has_finished_are_not_compared(report, write_run):
    write_run("tiny", 3, 50)
    write_run("tiny_1x1", 4, 50)
    write_run("tiny_1x1", 3, 10, finished=False)
    ablation = read_ablation(report)
    assert ablation.networks[0].mean == 20.75
    assert ablation.differences[0].seeds == (0, 1, 2)
    assert ablation.differences[0].mean == pytest.approx(1)
    assert ablation.left_out == ("tiny_1x1-seed3",)


def test_other_runs_in_the_folder_are_let_alone(report, write_run):
    write_run("delugenet146", 0, 50)
    (report / "tiny-seed0").rename(report / "mine")
    ablation = read_ablation(report)
    assert ablation.networks[0].errors == {1: 11, 2: 12}


def test_runs_of_before_there_was_an_option_had_its_default(report):
    file = report / "tiny-seed0" / "run.json"
    config = json.loads(file.read_text())
    del config["recipe"]["cutout"], config["initial_checkpoint"]
    file.write_text(json.dumps(config))
    assert len(read_ablation(report).finished) == 9
    recipe = dataclasses.replace(find_recipe("cifar-quick"), epochs=2)
    trials = plan_trials(compared_networks(TINY), 1, report)
    train_missing(trials, RunConfig("tiny", recipe, 0, "fp32", "cifar10"))


def test_the_picture_holds_the_figures(report):
    errors, curves = draw_ablation(read_ablation(report)).axes
    points = [line.get_ydata() for line in errors.lines if line.get_marker() == "o"]
    assert [list(row) for row in points] == [[10, 11, 12], [11, 13, 12], [15, 16, 17]]
    assert [label.get_text() for label in errors.get_xticklabels()] == NAMES
    assert [list(line.get_ydata()) for line in curves.lines] == [[12, 11], [13, 12], [17, 16]]


def test_the_table(report, run):
    status, out, err = run("ablation", "--output", report, "--report-only")
    rows = [line.split() for line in out.splitlines()]
    assert status == 0
    assert ["tiny_1x1", "0.00", "0.40", "0.00", "12.00", "1.00", "21.50"] in rows
    assert ["tiny_3x3", "15.00", "16.00", "17.00"] in rows
    assert "tiny_1x1 not significant     3  +1.00 -1.48 to +3.48 +0.00 to +2.00 +1.50" in out
    assert "ablation.json" in err


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("baseline38_1x1", "delugenet38"),
        ("delugenet146", "delugenet146_cifar100"),
    ],
)
def test_models_without_baselines(name, suggested):
    with pytest.raises(UsageError, match=f"'{name}' .* {suggested}\\b"):
        compared_networks(find_model(name))


def test_the_papers_three_sizes_have_both():
    for name in ("delugenet146_cifar100", "delugenet218_cifar100", "wide_delugenet146_cifar100"):
        _, one, three = compared_networks(find_model(name))
        assert [v.spec.architecture.baseline for v in (one, three)] == ["1x1", "3x3"]
        assert one.name.replace("_1x1", "") == name.replace("delugenet", "baseline")


def test_what_cannot_be_compared(report, write_run, run, tmp_path, monkeypatch):
    monkeypatch.delenv("DELUGESERVE_DATA", raising=False)

    def refused(*options):
        status, out, err = run("ablation", *options)
        assert (status, out) == (2, "")
        return " ".join(err.split())

    only = ("--report-only", "--output")
    assert "There is no folder" in refused(*only, tmp_path / "none")
    assert ".png or .svg" in refused(*only, report, "--plot", "a.gif")
    assert "Did you mean 'tiny'?" in refused(*only, report, "--model", "tinny")
    assert "No run in" in refused(*only, report, "--model", "delugenet38")
    assert "--model and --data" in refused("--output", report, "--model", "tiny")
    options = ("--output", report, "--model", "tiny", "--data", "cifar10", "--epochs", 2)
    changed = refused(*options, "--precision", "bf16")
    assert "tiny-seed0: --precision was fp32, now bf16." in changed
    assert "'fp8'" in refused(*options, "--precision", "fp8")
    (report / "tiny_3x3-seed2" / "log.csv").write_text("epoch\n1\n")
    assert "is damaged: log.csv" in refused(*options, "--precision", "fp32")
    write_run("tiny", 3, 9, limit=60)
    assert "limit is None in tiny-seed0, 60 in tiny-seed3." in refused(*only, report)
    write_run("delugenet38", 0, 9)
    assert "holds runs of 2 DelugeNets" in refused(*only, report)
    assert not (report / "ablation.json").exists()
