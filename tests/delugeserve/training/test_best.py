"""The best epoch is kept, and a run stops when it has had none for a while."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from delugeserve.training.best import KeepBest, Patience


class Run:
    """Epochs with given validation errors, as Lightning would call the callbacks."""

    def __init__(self, average=None):
        self.written = []
        self.module = nn.Module()
        self.module.network = nn.Linear(1, 1)
        self.keep = KeepBest(
            lambda network, epoch, error: self.written.append((network, epoch, error)), average
        )
        self.trainer = SimpleNamespace(current_epoch=0, is_global_zero=True, callback_metrics={})

    def measure(self, error):
        self.trainer.callback_metrics = {"val_error": torch.tensor(error)}
        self.keep.on_validation_end(self.trainer, self.module)

    def end_epoch(self):
        self.keep.on_train_epoch_end(self.trainer, self.module)
        self.trainer.current_epoch += 1

    def epochs(self, *errors):
        for error in errors:
            self.measure(error)
            self.end_epoch()


def test_the_first_epoch_with_the_lowest_error_is_written():
    run = Run()
    run.epochs(50.0, 40.0, 45.0, 40.0, 30.0)
    assert [(epoch, error) for _, epoch, error in run.written] == [(1, 50), (2, 40), (5, 30)]
    assert (run.keep.epoch, run.keep.error) == (5, 30)
    assert run.written[0][0] is run.module.network


def test_the_initial_network_stays_the_best_if_no_epoch_is_better():
    run = Run()
    run.keep.error = 100 * 5 / 120  # in float32, as an epoch's error is, it is a little less
    run.epochs(100 * 5 / 120, 10.0)
    assert run.written == []
    assert run.keep.epoch == 0
    run.epochs(100 * 4 / 120)
    assert run.keep.epoch == 3


def test_the_averaged_network_is_written():
    averaged = SimpleNamespace(averaged=SimpleNamespace(network="averaged"))
    run = Run(averaged)
    run.epochs(50.0)
    assert run.written == [("averaged", 1, 50)]


def test_other_processes_write_nothing():
    run = Run()
    run.trainer.is_global_zero = False
    run.epochs(50.0)
    assert run.written == []
    assert run.keep.epoch == 1


def test_a_run_killed_between_its_state_and_the_file_writes_it_when_it_is_resumed():
    killed = Run()
    killed.epochs(50.0)
    killed.measure(40.0)
    state = killed.keep.state_dict()  # saved before the file is written
    resumed = Run()
    resumed.keep.load_state_dict(state)
    resumed.keep.on_fit_start(resumed.trainer, resumed.module)
    assert [(epoch, error) for _, epoch, error in resumed.written] == [(2, 40)]
    resumed.trainer.current_epoch = 2
    resumed.epochs(45.0)
    assert len(resumed.written) == 1
    whole = Run()
    whole.epochs(50.0, 40.0)
    whole.measure(45.0)
    again = Run()
    again.keep.load_state_dict(whole.keep.state_dict())
    again.keep.on_fit_start(again.trainer, again.module)
    assert again.written == [], "the file on disk is the best epoch's"


class Stopping:
    def __init__(self, epochs=2, max_epochs=10, state=None):
        self.patience = Patience(epochs)
        if state:
            self.patience.load_state_dict(state)
        self.patience._check_on_train_epoch_end = True
        self.trainer = SimpleNamespace(
            should_stop=False, max_epochs=max_epochs, current_epoch=0, fast_dev_run=False,
            strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, **_: decision),
        )  # fmt: skip
        self.patience.on_train_start(self.trainer, None)

    def epochs(self, *errors):
        for number, error in enumerate(errors, 1):
            self.trainer.callback_metrics = {"val_error": torch.tensor(error)}
            self.patience._run_early_stopping_check(self.trainer)
            if self.trainer.should_stop:
                return number
        return None


def test_patience_ends_after_so_many_epochs_without_improvement():
    assert Stopping().epochs(50.0, 51.0, 50.0, 40.0) == 3
    assert Stopping().epochs(50.0, 51.0, 49.0, 50.0, 48.0) is None
    assert Stopping(1).epochs(50.0, 51.0) == 2


@pytest.mark.parametrize(("max_epochs", "stopped"), [(10, True), (20, False)])
def test_a_stopped_run_goes_on_only_with_more_epochs(max_epochs, stopped):
    run = Stopping()
    run.epochs(50.0, 51.0, 52.0)
    resumed = Stopping(max_epochs=max_epochs, state=run.patience.state_dict())
    assert resumed.trainer.should_stop == stopped
    if not stopped:
        assert resumed.epochs(51.0, 52.0) == 2, "its patience begins anew"


def test_patience_goes_on_counting_in_a_resumed_run():
    run = Stopping()
    run.epochs(50.0, 51.0)
    assert Stopping(state=run.patience.state_dict()).epochs(52.0) == 1
