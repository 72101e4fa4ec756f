"""Runs read back from their folders: whole, old, going on and damaged ones."""

import csv
import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delugeserve.errors import ResumeError, UsageError
from delugeserve.plotting import save_figure
from delugeserve.training.config import RunConfig
from delugeserve.training.curves import draw_curves
from delugeserve.training.recipes import find_recipe
from delugeserve.training.records import (
    Epoch,
    RunRecord,
    as_recorded,
    changed_settings,
    check_settings,
    compare_settings,
    read_run,
    read_runs,
    settings_of,
)
from delugeserve.training.run import train
from delugeserve.zoo import CIFAR10, Architecture, ModelSpec

HEADING = "epoch,learning_rate,train_loss,val_loss,val_error,seconds\r\n"
LOG = (
    f"{HEADING}1,0.05,2.0,1.8,60.50,95.0\r\n2,0.1,1.5,1.6,50.00,80.0\r\n"
    "3,0.05,1.2,1.3,40.00,85.0\r\n4,0,1.0,1.1,30.25,80.0\r\n"
)


@pytest.fixture
def make_run(tmp_path):
    """Write a run's folder below ``runs``, by default with four epochs."""

    def make_run(name, log=LOG, recipe="cifar-quick", seed=0, **files):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        config = RunConfig("delugenet38", find_recipe(recipe), seed, "bf16", "cifar10")
        (folder / "run.json").write_text(json.dumps(dataclasses.asdict(config)))
        (folder / "log.csv").write_text(log)
        for file, value in files.items():
            (folder / f"{file}.json").write_text(json.dumps(value))
        return folder

    return make_run


def test_a_finished_run(make_run):
    environment = {"torch": "2", "command": "delugeserve train"}
    metrics = {"num_images": 10_000, "top1_error": 12.42, "top5_error": 0.28}
    record = read_run(make_run("first", environment=environment, metrics=metrics))
    assert (record.name, record.status, record.reason) == ("first", "finished", None)
    assert record.config["recipe"]["epochs"] == 30
    assert len(record.epochs) == 4
    assert record.epochs[0] == Epoch(1, 0.05, 2.0, 1.8, 60.5, 95.0)
    assert record.top1_error == 12.42, "the final evaluation, not the last epoch's"
    assert record.seconds == 340
    assert record.seconds_per_epoch == 82.5
    assert record.settings["torch"] == "2"
    assert record.settings["recipe"] == "cifar-quick"
    assert "command" not in record.settings


def test_a_run_of_before_there_were_metrics(make_run):
    folder = make_run("old")
    (folder / "delugenet38.safetensors").touch()
    record = read_run(folder)
    assert record.status == "finished"
    assert record.top1_error == 30.25, "the last epoch's"
    assert record.environment == {}


def test_what_the_trainer_writes_is_read(tiny_cifar, tmp_path):
    spec = ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6), (2, 2)), CIFAR10)
    recipe = dataclasses.replace(find_recipe("cifar-quick"), epochs=2, batch_size=20)
    config = RunConfig("tiny", recipe, seed=0, precision="fp32", data=str(tiny_cifar), limit=40)
    _, evaluation = train(spec, config, tmp_path / "run")
    record = read_run(tmp_path / "run")
    assert record.status == "finished", record.reason
    assert [epoch.epoch for epoch in record.epochs] == [1, 2]
    assert record.top1_error == pytest.approx(evaluation.top1_error, abs=0.01)
    assert record.settings["limit"] == 40


def test_a_run_that_is_going_on(make_run):
    assert read_run(make_run("started", log=HEADING)).top1_error is None
    record = read_run(make_run("halfway", log=LOG + "5,0.0"))
    assert record.status == "unfinished"
    assert [epoch.epoch for epoch in record.epochs] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", b'{"model": '),
        ("run.json", b"[]"),
        ("run.json", b'{"model": "delugenet38", "recipe": {}}'),
        ("run.json", b"\xff\xfe"),
        ("environment.json", b""),
        ("metrics.json", b'{"top1_error": null}'),
        ("log.csv", b"epoch,learning_rate\n1,0.1\n"),
        ("log.csv", HEADING.encode() + b"1,0.1,,1,60,9\n"),
    ],
)
def test_a_damaged_run_says_where_and_the_others_are_read(make_run, file, content):
    make_run("whole")
    (make_run("bad") / file).write_bytes(content)
    bad, whole = read_runs(make_run("zero").parent)[:2]
    assert bad.status == "damaged"
    assert bad.reason.startswith(f"{file} cannot be read (")
    assert whole.status == "unfinished"
    assert len(whole.epochs) == 4


def test_folders_without_runs(tmp_path, make_run):
    with pytest.raises(UsageError, match="There is no folder"):
        read_runs(tmp_path / "none")
    with pytest.raises(UsageError, match="holds no runs"):
        read_runs(tmp_path)
    run = make_run("first")
    assert [record.path for record in read_runs(run)] == [run]


SETTINGS = st.dictionaries(st.sampled_from("abcde"), st.integers(0, 2))


@given(st.lists(SETTINGS, min_size=1, max_size=4))
def test_every_setting_is_the_same_or_compared(configs):
    records = [RunRecord("", Path(), "unfinished", config=config) for config in configs]
    differing = compare_settings(records)
    for name in "abcde":
        values = [config.get(name) for config in configs]
        assert differing.get(name, [values[0]] * len(values)) == values
        assert (name in differing) == (len(set(values)) > 1)


def test_what_a_run_could_not_be_asked_yet_has_its_default():
    config = RunConfig("delugenet38", find_recipe("cifar-quick"), 0, "bf16", "cifar10")
    now = as_recorded(config)
    recipe = {name: value for name, value in now["recipe"].items() if name != "cutout"}
    before = {"model": "delugenet38", "seed": 0, "precision": "bf16", "data": "cifar10"}
    before["recipe"] = recipe
    assert changed_settings(before, now) == {}
    records = [RunRecord("", Path(), "unfinished", config=one) for one in (before, now)]
    assert compare_settings(records) == {}

    covered = now | {"recipe": now["recipe"] | {"cutout": 8}, "limit": 100}
    assert changed_settings(before, covered) == {"limit": (None, 100), "cutout": (0, 8)}
    # Nor does this version pass over what it does not know.
    assert changed_settings(now | {"later": 1}, before) == {"later": (1, None)}


def test_the_curves_hold_the_log(make_run, tmp_path):
    step = HEADING + "1,0.1,2,2,60,9\n2,0.01,1,1.5,50,9\n"
    records = [read_run(make_run("a")), read_run(make_run("b", step)), read_run(make_run("c", ""))]
    error, loss, rate = draw_curves(records).axes
    assert [len(line.get_xdata()) for line in error.lines] == [4, 2]
    assert list(error.lines[1].get_ydata()) == [60, 50]
    assert [list(line.get_ydata()) for line in loss.lines[2:]] == [[2, 1], [2, 1.5]]
    assert error.get_ylim()[0] < 30.25 < 60.5 < error.get_ylim()[1]
    assert rate.get_yscale() == "linear"


def labels_of(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_the_legend_says_what_differs_and_the_title_what_does_not(make_run):
    a, b = make_run("a"), make_run("b", seed=3)
    figure = draw_curves([read_run(folder) for folder in (a, b)])
    assert labels_of(figure) == ["seed 0: 30.25 %", "seed 3: 30.25 %"]
    assert figure.get_suptitle() == "delugenet38 on cifar10, cifar-quick, 30 epochs"
    # What follows from the recipe's name is not repeated.
    c = make_run("c", recipe="cifar")
    assert labels_of(draw_curves([read_run(folder) for folder in (a, c)])) == [
        "cifar-quick: 30.25 %",
        "cifar: 30.25 %",
    ]
    again = make_run("again")
    assert labels_of(draw_curves([read_run(folder) for folder in (a, again)])) == [
        "a: 30.25 %",
        "again: 30.25 %",
    ]
    twice = [a, make_run("other/a")]
    assert labels_of(draw_curves([read_run(folder) for folder in twice])) == [
        "runs/a: 30.25 %",
        "other/a: 30.25 %",
    ]


def test_few_epochs_have_markers_and_a_tick_each(make_run):
    short = draw_curves([read_run(make_run("short"))]).axes[0]
    assert list(short.get_xticks()) == [1, 2, 3, 4]
    assert short.lines[0].get_marker() == "o"
    assert short.get_legend() is None, "the title says it all"
    rows = [f"{epoch},0.1,1,1,{60 - epoch},9\n" for epoch in range(1, 31)]
    long = draw_curves([read_run(make_run("long", HEADING + "".join(rows)))]).axes[0]
    assert long.lines[0].get_marker() == ""
    assert all(tick == int(tick) for tick in long.get_xticks())


@pytest.mark.parametrize(
    ("rates", "schedule", "scale"),
    [((0.1, 0.01), "cifar", "log"), ((0.15, 0.001), "cifar-quick", "linear")],
)
def test_only_rates_that_fall_in_steps_are_drawn_on_a_logarithmic_scale(
    make_run, rates, schedule, scale
):
    rows = [f"{epoch},{rate},2,2,60,9\n" for epoch, rate in enumerate(rates, 1)]
    record = read_run(make_run("a", HEADING + "".join(rows), recipe=schedule))
    assert draw_curves([record]).axes[2].get_yscale() == scale


@pytest.mark.parametrize("row", ["1,0,0,0,0,0", "1,0.1,9e37,inf,90,1", "1,0.1,nan,2,100,1"])
def test_curves_of_strange_figures_are_drawn(make_run, tmp_path, row):
    save_figure(draw_curves([read_run(make_run("a", f"{HEADING}{row}\n"))]), tmp_path / "a.svg")


def test_the_command_lists_them(make_run, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    make_run("good", metrics={"num_images": 1, "top1_error": 9.5, "top5_error": 0.0})
    make_run("better", log=HEADING + "1,0.1,2,2,8.25,3601\n")
    (make_run("bad") / "run.json").write_text("{")
    runs = make_run("started", log="").parent
    status, out, err = run("runs", runs, "--sort", "error")
    rows = [line.split() for line in out.splitlines()[2:]]
    assert status == 0
    assert [row[0] for row in rows] == ["better", "good", "bad", "started"]
    assert rows[0][3:] == ["unfinished", "1/30", "-", "8.25", "3601.0", "1:00:01"]
    assert rows[1][3:7] == ["finished", "4/30", "-", "9.50"]
    assert f"{runs / 'bad'} is damaged: run.json cannot be read" in err
    listed = json.loads(run("runs", runs, "--json")[1])
    assert [row["name"] for row in listed] == ["bad", "better", "good", "started"]
    assert listed[1]["top1_error"] == 8.25
    fastest = json.loads(run("runs", runs, "--json", "--sort", "time")[1])
    assert [row["name"] for row in fastest][:2] == ["good", "better"]


def test_a_network_of_its_own_name_is_listed_by_it(make_run, run, tmp_path):
    folder = make_run("first")
    config = json.loads((folder / "run.json").read_text()) | {"name": "flowers"}
    (folder / "run.json").write_text(json.dumps(config))
    assert "flowers (delugenet38)" in run("runs", folder)[1]
    assert run("runs", folder, "--csv", tmp_path / "runs.csv")[0] == 0
    (row,) = csv.DictReader((tmp_path / "runs.csv").read_text().splitlines())
    assert (row["network"], row["model"]) == ("flowers", "delugenet38")


def test_the_command_compares_them(make_run, run):
    make_run("a", environment={"torch": "2.8", "command": "x"})
    make_run("b", recipe="cifar", seed=3, environment={"torch": "2.9", "command": "y"})
    runs = make_run("same", environment={"torch": "2.8"}).parent
    status, out, _ = run("runs", runs / "b", runs / "a", "--compare", "--json")
    differences = json.loads(out)["differences"]
    assert status == 0
    assert differences["seed"] == {"a": 0, "b": 3}
    assert differences["recipe"] == {"a": "cifar-quick", "b": "cifar"}
    assert differences["torch"] == {"a": "2.8", "b": "2.9"}
    assert not {"model", "precision", "momentum", "command"} & differences.keys()
    table = run("runs", runs, "--compare")[1].split("different settings")[1]
    assert "weight_decay" in table
    assert "momentum" not in table
    assert "same settings" in run("runs", runs / "a", runs / "same", "--compare")[2]


def test_runs_of_one_name_go_by_their_paths(make_run, run):
    runs = make_run("first").parent
    other = make_run("other/first")
    listed = json.loads(run("runs", runs, runs, other, "--json")[1])
    assert [row["name"] for row in listed] == [str(runs / "first"), str(other)]


def test_the_command_draws_curves(make_run, run, tmp_path):
    first = make_run("first")
    status, _, err = run("runs", first, "--plot", tmp_path / "new" / "curves.png")
    assert status == 0
    assert "curves.png" in err
    assert (tmp_path / "new" / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sort", "eror"], "Did you mean 'error'?"),
        (["--compare"], "nothing to compare"),
        (["--plot", "curves.gif"], ".png or .svg"),
        (["--plot", "curves.png"], "--plot"),
        (["--curves", "curves.png"], "--plot"),  # its name in earlier versions
    ],
)
def test_what_cannot_be_asked_of_runs(make_run, run, options, message):
    status, out, err = run("runs", make_run("first", log="").parent, *options)
    assert (status, out) == (2, "")
    assert message in " ".join(err.split())


def test_a_resumed_run_may_have_another_tracker_but_no_other_seed(make_run):
    record = read_run(make_run("first"))
    config = RunConfig("delugenet38", find_recipe("cifar-quick"), 0, "bf16", "cifar10")
    check_settings(record, dataclasses.replace(config, logger="csv"))
    with pytest.raises(ResumeError) as caught:
        check_settings(record, dataclasses.replace(config, logger="csv", seed=1))
    assert caught.value.changed == {"seed": (0, 1)}
    assert "class_names" not in settings_of(config)
    assert settings_of(config)["learning_rate"] == 0.15


def test_the_best_epoch_is_that_of_the_lowest_validation_error(make_run, run):
    log = f"{HEADING}1,0.05,2,2,60,9\r\n2,0.1,2,2,40,9\r\n3,0.1,2,2,40,9\r\n4,0.1,2,2,50,9\r\n"
    folder = make_run("watched", log=log)
    record = read_run(folder)
    assert (record.best, record.top1_error) == (None, 50)
    config = json.loads((folder / "run.json").read_text()) | {"val_fraction": 0.1}
    (folder / "run.json").write_text(json.dumps(config))
    record = read_run(folder)
    assert (record.best.epoch, record.top1_error) == (2, 40)
    listed = json.loads(run("runs", folder, "--json")[1])
    assert listed[0]["best_epoch"] == 2
    (line,) = [line for line in draw_curves([record]).axes[0].lines if len(line.get_xdata()) == 1]
    assert line.get_xdata()[0] == 2
    (folder / "metrics.json").write_text(json.dumps({"top1_error": 42.0, "split": "test"}))
    assert read_run(folder).top1_error == 42
