"""What a run reports of its epochs."""

from types import SimpleNamespace

import pytest
import torch

from delugeserve.training import progress as module
from delugeserve.training.progress import ReportProgress


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def reported(at_stage):
    return at_stage("nothing", None)


def trainer(epoch, epochs=30):
    return SimpleNamespace(
        current_epoch=epoch, max_epochs=epochs, num_training_batches=14, num_val_batches=[5]
    )


@pytest.mark.parametrize(
    ("seconds", "left"), [(1, "29 s left"), (20, "10 min left"), (600, "4.8 h left")]
)
def test_after_the_first_epoch_the_time_that_is_left_is_named(clock, reported, seconds, left):
    report = ReportProgress(reported, "validation")
    report.on_train_epoch_start(trainer(0), None)
    clock.now += seconds
    report.on_train_epoch_start(trainer(1), None)
    assert reported.stages == [("epoch 1/30, batch", 14), (f"epoch 2/30, {left}, batch", 14)]


@pytest.mark.parametrize(("split", "name"), [("validation", "validate"), ("test", "test")])
def test_the_split_that_is_measured_is_named(reported, split, name):
    ReportProgress(reported, split).on_validation_epoch_start(trainer(2), None)
    assert reported.stages == [(f"{name} epoch 3/30, batch", 5)]


def test_a_loss_is_read_now_and_then(clock, reported):
    report = ReportProgress(reported, "test")
    for number, loss in enumerate((3.0, 2.0, 1.0)):
        clock.now = 100 + 0.15 * number
        report.on_train_batch_end(None, None, {"loss": torch.tensor(loss)})
    assert reported.notes == ["loss 3.000", "loss 3.000", "loss 1.000"]
