"""What all commands have in common: help, usage errors, exit status."""

import dataclasses
import json
import os
import shutil
import socket
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image

from delugeserve import cli, errors
from delugeserve.cli import commands
from delugeserve.zoo import MODELS
from delugeserve_client import ServerUnavailable

COMMANDS = typer.main.get_command(cli.app).commands


def refused(result, *fragments):
    """Check that a command ended as a usage error does: status 2, one line, no traceback."""
    status, out, err = result
    assert status == 2, err
    assert out == ""
    assert "error: " in err
    assert "Traceback" not in err
    assert len(err[err.index("error: ") :]) < 500
    for fragment in fragments:
        assert fragment in " ".join(err.split()), err
    return True


def test_there_is_a_command_for_every_module():
    modules = {
        path.stem.replace("_", "-")
        for path in Path(commands.__path__[0]).glob("*.py")
        if path.stem != "__init__"
    }
    assert {"models", "train", "export", "serve", "inspect", "verify"} <= set(COMMANDS)
    assert set(COMMANDS) <= modules


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run, command):
    status, out, _ = run(command, "--help")
    assert status == 0
    assert "Usage" in out
    assert "<bool>" not in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_help(command):
    without = [
        param.name
        for param in COMMANDS[command].params
        if param.name != "help" and not getattr(param, "hidden", False) and not param.help
    ]
    assert without == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_suggests_the_nearest_option(run, command):
    status, out, err = run(command, "--jsn")
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert "--jsn" in err


def test_models_as_json_is_whole(run):
    status, out, _ = run("models", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert status == 0
    assert rows.keys() == MODELS.keys()
    assert rows["delugenet92"]["depth"] == 92
    assert rows["delugenet92"]["published"]["top5_error"] == 6.03
    assert rows["delugenet92"]["measured"] is None
    assert rows["delugenet38"]["published"] is None
    assert rows["delugenet38"]["measured"]["top1_error"] == 10.34


def test_models_fits_a_terminal_of_eighty_columns(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = run("models")
    assert status == 0
    rows = {line.split()[0]: line.split()[-2:] for line in out.splitlines()[2:]}
    assert list(rows) == list(MODELS)
    assert rows["delugenet38"] == ["-", "10.34"]
    assert rows["delugenet92"] == ["22.05/6.03", "-"]
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("command", ["train --data x --output y", "export", "evaluate --data x"])
def test_an_unknown_model_suggests_the_nearest(error, command):
    name, *options = command.split()
    found = error(name, "--model", "delugnet38", *options)
    assert isinstance(found, errors.UsageError)
    assert found.nearest == "delugenet38"


@pytest.mark.parametrize(
    ("schedule", "other"), [({"milestones": (0.2, 0.4)}, "warmup"), ({"warmup": 0.3}, "milestones")]
)
def test_every_value_of_a_recipe_has_a_flag(
    run, monkeypatch, tmp_path, write_tiny_cifar, schedule, other
):
    values = {
        "epochs": 7, "batch_size": 10, "learning_rate": 0.3, "momentum": 0.5, "weight_decay": 0.25,
        "label_smoothing": 0.2, "ema_decay": 0.9, "crop_padding": 3, "cutout": 8, "flip": "none",
        "mixup": 0.2, "cutmix": 0.5, "class_weights": "balanced", "sampling": "natural",
        "augment": "trivial", "head_first": 0.1, "partial_batch": True, "patience": 3,
        "muon_rate": 0.05, "muon_momentum": 0.6, "bias_rate": 8.0, "whiten": True,
        "small_images": 0.5, "distillation": 0.3, "freeze_norms": True,
        "schedule": "step" if other == "warmup" else "cosine", **schedule,
    }  # fmt: skip
    asked = []
    monkeypatch.setattr(
        "delugeserve.training.run.train", lambda _, config, *rest, **options: asked.append(config)
    )
    flags = []
    for name, value in values.items():
        flag = f"--{name.replace('_', '-')}"
        if value is not True:
            flag += f"={','.join(map(str, value)) if type(value) is tuple else value}"
        flags.append(flag)
    data = write_tiny_cifar(tmp_path / "data")
    base = ("train", "--model", "delugenet38", "--data", data, "--output", tmp_path / "run")
    started = ("--initial-checkpoint", "delugenet38", "--teacher", "delugenet38")
    status, _, err = run(*base, *started, "--val-fraction", 0, *flags)
    assert status == 0, err
    found = dataclasses.asdict(asked[0].recipe)
    other_stem = {other, "crop_area"}  # which this schedule, or this data, has no use for
    assert set(found) == {"name", *values, *other_stem}, "a new value needs a flag"
    assert {name: found[name] for name in values} == values


def test_an_unknown_recipe_and_precision(run, tmp_path):
    base = ("train", "--model", "delugenet38", "--data", "x", "--output", tmp_path / "run")
    assert refused(run(*base, "--recipe", "cifar-quik"), "'cifar-quick'")
    assert refused(run(*base, "--precision", "fp23"), "'fp23'")
    assert not (tmp_path / "run").exists()


def test_data_that_is_not_there(error, tmp_path):
    base = ("train", "--model", "delugenet38", "--output", tmp_path / "run")
    found = error(*base, "--data", tmp_path / "none")
    assert isinstance(found, errors.DatasetError)
    assert str(tmp_path / "none") in found.problem
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_is_not_there(run, tmp_path):
    path = tmp_path / "none.safetensors"
    assert refused(run("export", "--checkpoint", path), str(path))


def test_a_damaged_checkpoint(error, tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    found = error("export", "--checkpoint", path, "--repository", tmp_path / "repository")
    assert isinstance(found, errors.CheckpointError)
    assert found.path == path
    assert not (tmp_path / "repository").exists()


def test_a_checkpoint_of_another_model(error):
    shipped = MODELS["delugenet38"].weights
    found = error("export", "--model", "delugenet146", "--checkpoint", shipped)
    assert (found.path, found.expected, found.found) == (shipped, "delugenet146", "delugenet38")


@pytest.mark.parametrize("command", [("export",), ("evaluate", "--data", "x")])
def test_nothing_to_export_or_evaluate(error, command):
    found = error(*command)
    assert isinstance(found, errors.UsageError)
    assert "model" in found.remedy


def test_an_unknown_backend(run):
    assert refused(run("export", "--model", "delugenet38", "--backend", "openvio"), "'openvino'")


@pytest.mark.slow
def test_a_repository_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").touch()
    for repository in (tmp_path / "file", tmp_path / "file" / "below"):
        result = run("export", "--model", "delugenet38", "--repository", repository)
        assert refused(result, str(tmp_path / "file"))


def test_a_server_that_is_not_there(error, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{unused.getsockname()[1]}"
        for command in (["classify", tmp_path], ["benchmark", "--model", "delugenet38"]):
            found = error(*command, "--url", url)
            assert isinstance(found, ServerUnavailable)
            assert found.url == url


def test_a_missing_extra_is_one_line(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run("export", "--model", "delugenet38")
    assert refused(result, "pip install 'delugeserve[export]'")


def test_only_debug_shows_a_traceback(run):
    assert refused(run("export", "--model", "delugnet38"), "'delugenet38'")
    with pytest.raises(errors.UsageError):
        run("--debug", "export", "--model", "delugnet38")


def test_an_unexpected_exception_is_one_line(run, monkeypatch):
    def crash(*_arguments, **_options):
        raise KeyError("count")

    monkeypatch.setattr("delugeserve.cli.commands.models.print_table", crash)
    status, out, err = run("models")
    assert (status, out) == (1, "")
    assert err.startswith("error: Internal error: KeyError: 'count'.")
    assert "--debug" in err
    assert len(err.splitlines()) == 1
    with pytest.raises(KeyError):
        run("--debug", "models")


def test_a_path_that_is_not_utf8(run, tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.safetensors")
    shutil.copy(MODELS["delugenet38"].weights, name)
    status, out, err = run("inspect", name)
    assert status == 0, err
    assert "delugenet38" in out
    status, out, err = run("inspect", name, "--json")
    assert status == 0, err
    assert json.loads(out)["path"] == name


def test_the_tree_in_the_docstring_is_the_tree():
    def names(kind):
        return [kind.__name__, *(name for child in kind.__subclasses__() for name in names(child))]

    for name in names(errors.DelugeServeError):
        assert name in str(errors.__doc__)


def test_a_dry_run_says_what_would_be_done_and_does_nothing(run, tmp_path):
    repository = tmp_path / "repository"
    arguments = ("export", "--model", "delugenet38", "--repository", repository, "--dry-run")
    status, out, _ = run(*arguments, "--json")
    assert status == 0
    planned = json.loads(out)
    assert planned["folder"] == str(repository / "delugenet38" / "1")
    assert planned["checkpoint"] == "delugenet38.safetensors"
    status, out, _ = run(*arguments)
    assert status == 0
    assert all(stage in out for stage in planned["stages"])
    assert not repository.exists()


def test_a_dry_run_refuses_data_that_is_not_there(run, error, tmp_path, tiny_cifar):
    export = ("export", "--model", "delugenet38", "--repository", tmp_path / "repository",
              "--backend", "onnxruntime", "--dry-run")  # fmt: skip
    int8 = ("--precision", "int8", "--data", tiny_cifar)
    (tmp_path / "empty").mkdir()
    for options in (
        ("--data", "/gone"),
        ("--data", tmp_path / "empty"),
        (*int8, "--calibration-data", "/gone"),
    ):
        found = error(*export, *options)
        assert isinstance(found, errors.DatasetError)
        assert str(options[-1]) in found.problem
    assert run(*export, *int8)[0] == 0
    (tiny_cifar / "train.parquet").unlink()
    assert isinstance(error(*export, *int8), errors.DatasetError)
