"""What the command line says and how it exits: one sentence, one remedy, status 2."""

import dataclasses
import json
import socket
import sys
from types import SimpleNamespace

import pytest

from delugeserve import errors
from delugeserve.zoo import MODELS


def refused(result, *fragments):
    """The command ended as a user's mistake should: status 2, a line or two, no traceback."""
    status, out, err = result
    assert status == 2, err
    assert out == ""
    assert "error: " in err
    assert "Traceback" not in err
    assert len(err[err.index("error: ") :]) < 500
    for fragment in fragments:
        assert fragment in " ".join(err.split()), err
    return True


def test_models_as_json_is_whole(run):
    status, out, _ = run("models", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert status == 0
    assert rows.keys() == MODELS.keys()
    assert rows["delugenet92"]["depth"] == 92
    assert rows["delugenet92"]["published"]["top5_error"] == 6.03


def test_models_fits_a_terminal_of_eighty_columns(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = run("models")
    assert status == 0
    for name in MODELS:
        assert name in out
    assert "…" not in out


@pytest.mark.parametrize("command", ["models", "train", "runs", "ablation", "evaluate",
                                     "connectivity", "export", "serve", "classify", "benchmark",
                                     "profile", "quickstart"])  # fmt: skip
def test_every_command_explains_itself(run, command):
    status, out, _ = run(command, "--help")
    assert status == 0
    assert "Usage" in out


@pytest.mark.parametrize("command", ["train --data x --output y", "export", "evaluate --data x"])
def test_an_unknown_model_suggests_the_nearest(run, command):
    name, *options = command.split()
    assert refused(run(name, "--model", "delugnet38", *options), "Did you mean 'delugenet38'?")


@pytest.mark.parametrize(
    ("schedule", "other"), [({"milestones": (0.2, 0.4)}, "warmup"), ({"warmup": 0.3}, "milestones")]
)
def test_every_value_of_a_recipe_has_a_flag(run, monkeypatch, tmp_path, schedule, other):
    values = {
        "epochs": 7, "batch_size": 10, "learning_rate": 0.3, "momentum": 0.5, "weight_decay": 0.25,
        "label_smoothing": 0.2, "ema_decay": 0.9, "crop_padding": 3, "cutout": 8,
        "schedule": "step" if other == "warmup" else "cosine", **schedule,
    }  # fmt: skip
    asked = []
    monkeypatch.setattr(
        "delugeserve.training.run.train", lambda _, config, *rest, **options: asked.append(config)
    )
    flags = [
        f"--{name.replace('_', '-')}={','.join(map(str, value)) if type(value) is tuple else value}"
        for name, value in values.items()
    ]
    base = ("train", "--model", "delugenet38", "--data", "x", "--output", tmp_path / "run")
    assert run(*base, *flags)[0] == 0
    found = dataclasses.asdict(asked[0].recipe)
    del found[other]  # which this schedule has no use for
    assert found == {"name": "cifar-quick", **values}


def test_an_unknown_recipe_and_precision(run, tmp_path):
    base = ("train", "--model", "delugenet38", "--data", "x", "--output", tmp_path / "run")
    assert refused(run(*base, "--recipe", "cifar-quik"), "Did you mean 'cifar-quick'?")
    assert refused(run(*base, "--precision", "fp23"), "no precision 'fp23'")
    assert not (tmp_path / "run").exists()


def test_data_that_is_not_there(run, tmp_path):
    result = run(
        "train", "--model", "delugenet38", "--data", tmp_path / "none", "--output", tmp_path / "run"
    )
    assert refused(result, "none")
    assert not (tmp_path / "run").exists(), "nothing half-written"


def test_a_checkpoint_that_is_not_there(run, tmp_path):
    result = run("export", "--checkpoint", tmp_path / "none.safetensors")
    assert refused(result, "There is no checkpoint")


def test_a_damaged_checkpoint(run, tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    result = run("export", "--checkpoint", path, "--repository", tmp_path / "repository")
    assert refused(result, "not a whole checkpoint")
    assert not (tmp_path / "repository").exists()


def test_a_checkpoint_of_another_model(run, tmp_path):
    shipped = MODELS["delugenet38"].weights
    assert shipped
    result = run("export", "--model", "delugenet146", "--checkpoint", shipped)
    assert refused(result, "holds 'delugenet38'", "Say --model delugenet38")


def test_nothing_to_export_or_evaluate(run, tmp_path):
    assert refused(run("export"), "nothing to export")
    assert refused(run("evaluate", "--data", tmp_path), "nothing to evaluate")


def test_an_unknown_backend(run, tmp_path):
    result = run("export", "--model", "delugenet38", "--backend", "openvio")
    assert refused(result, "Did you mean 'openvino'?")


def test_a_repository_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").touch()
    for repository in (tmp_path / "file", tmp_path / "file" / "below"):
        result = run("export", "--model", "delugenet38", "--repository", repository)
        assert refused(result, str(tmp_path / "file"))


def test_a_server_that_is_not_there(run, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{unused.getsockname()[1]}"
        for command in (["classify", tmp_path], ["benchmark", "--model", "delugenet38"]):
            assert refused(run(*command, "--url", url), f"No server answers at {url}")


def test_a_missing_extra_is_one_line(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run("export", "--model", "delugenet38")
    assert refused(result, "pip install 'delugeserve[export]'")


def test_debug_shows_the_traceback(run):
    with pytest.raises(errors.UnknownNameError):
        run("--debug", "export", "--model", "delugnet38")


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


def test_a_dry_run_refuses_data_that_is_not_there(run, tmp_path, tiny_cifar):
    export = ("export", "--model", "delugenet38", "--repository", tmp_path / "repository",
              "--backend", "onnxruntime", "--dry-run")  # fmt: skip
    int8 = ("--precision", "int8", "--data", tiny_cifar)
    assert refused(run(*export, "--data", "/gone"), "no file or folder '/gone'")
    (tmp_path / "empty").mkdir()
    assert refused(run(*export, "--data", tmp_path / "empty"), "holds no images")
    assert refused(run(*export, *int8, "--calibration-data", "/gone"), "no file or folder")
    assert run(*export, *int8)[0] == 0
    (tiny_cifar / "train.parquet").unlink()
    assert refused(run(*export, *int8), "none of the train split")


def test_quickstart_says_why_its_plan_cannot_be_run(run, monkeypatch):
    from delugeserve_export import pipeline

    verification = {"status": "built, not run", "checks": [{"found": "It cannot load model.plan"}]}
    done = SimpleNamespace(manifest=SimpleNamespace(verification=verification))
    monkeypatch.setattr(pipeline, "export", lambda *_: done)
    assert refused(run("quickstart"), "cannot load model.plan. Mend that", "--backend onnxruntime")
