"""Experiment trackers."""

import csv
import json
import sys
from types import SimpleNamespace

import pytest

from delugeserve.errors import MissingExtraError, UsageError
from delugeserve.training import loggers
from delugeserve.training.config import RunConfig
from delugeserve.training.loggers import build_logger, check_logger
from delugeserve.training.recipes import find_recipe


def config(logger):
    return RunConfig("tiny", find_recipe("cifar-quick"), 3, "fp32", "images", logger=logger)


def test_a_missing_package_is_named_with_how_to_install_it(monkeypatch):
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    for name in ("none", "csv"):
        check_logger(name)
    with pytest.raises(MissingExtraError) as caught:
        check_logger("tensorboard")
    assert caught.value.extra == "tensorboard"
    for name in ("wandb", "mlflow"):
        with pytest.raises(UsageError) as caught:
            check_logger(name)
        assert caught.value.remedy.endswith(f"pip install {name}")


def test_without_a_tracker_nothing_is_written(tmp_path):
    assert build_logger(config("none"), tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_every_part_of_a_run_has_a_csv_file(tmp_path):
    for part in (0, 1):
        logger = build_logger(config("csv"), tmp_path)
        logger.log_metrics({"val_error": 40.0 - part}, step=part)
        logger.save()
        folder = tmp_path / f"csv/version_{part}"
        with (folder / "metrics.csv").open() as file:
            assert [row["val_error"] for row in csv.DictReader(file)] == [str(40.0 - part)]
        assert "learning_rate: 0.15" in (folder / "hparams.yaml").read_text()


def test_tensorboard_s_files_are_in_the_run_s_folder(tmp_path):
    pytest.importorskip("tensorboard", reason="needs TensorBoard: delugeserve[tensorboard]")
    logger = build_logger(config("tensorboard"), tmp_path)
    logger.log_metrics({"val_error": 40.0}, step=1)
    logger.save()
    assert any((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


class Tracker:
    """Stands for Lightning's logger of a service, which no test talks to."""

    def __init__(self, *names, **options):
        self.names, self.options, self.settings = names, options, []
        self.version = options.get("id") or options.get("run_id") or "new"
        self.experiment = SimpleNamespace(offline=True)

    def log_hyperparams(self, settings):
        self.settings.append(settings)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_resumed_run_continues_its_run_at_the_service(monkeypatch, tmp_path, name):
    module = SimpleNamespace(Settings=dict, get_tracking_uri=lambda: "here")
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(loggers, "_Wandb", Tracker)
    monkeypatch.setattr(loggers, "MLFlowLogger", Tracker)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    output = tmp_path / "flowers"
    output.mkdir()
    first = build_logger(config(name), output)
    assert "flowers" in first.names
    assert "delugeserve" in (*first.names, first.options.get("project"))
    assert first.settings[0]["learning_rate"] == 0.15
    assert first.settings[0]["seed"] == 3
    assert json.loads((output / "trackers.json").read_text()) == {name: "new"}
    again = build_logger(config(name), output)
    assert {again.options.get("id"), again.options.get("run_id")} == {"new", None}
    assert bool(again.settings) == (name == "wandb"), "MLflow's settings cannot change"


def test_the_project_of_weights_and_biases_is_its_own_variable_s(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Settings=dict))
    monkeypatch.setattr(loggers, "_Wandb", Tracker)
    monkeypatch.setenv("WANDB_PROJECT", "botany")
    assert build_logger(config("wandb"), tmp_path).options["project"] == "botany"
