"""The moving average of the weights."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from delugeserve.training.averaging import MovingAverage


@pytest.fixture
def module():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.fixture
def average(module):
    average = MovingAverage(0.6)
    module.device = torch.device("cpu")
    module.configure_model = None
    trainer = SimpleNamespace(global_step=0)
    average._average_model = torch.optim.swa_utils.AveragedModel(module, use_buffers=True)

    def step(number, value):
        trainer.global_step = number
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.fill_(value)
        average.on_train_batch_end(trainer, module, None, None, 0)
        return average.averaged[0].weight[0, 0].item()

    average.step = step
    return average


def test_the_decay_grows_to_what_was_asked_for(average):
    value = average.step(1, 5.0)
    assert value == 5, "nothing of the initial weights"
    for number in range(2, 30):
        kept = min(0.6, number / (9 + number))
        expected = kept * value + (1 - kept) * number
        value = average.step(number, float(number))
        assert value == pytest.approx(expected, rel=1e-6)
    assert number / (9 + number) > 0.6


def test_running_statistics_are_averaged_and_counts_copied(average):
    average.step(1, 4.0)
    average.step(2, 7.0)
    norm = average.averaged[1]
    assert norm.running_var[0].item() == average.averaged[0].weight[0, 0].item()
    assert norm.num_batches_tracked.item() == 7


def test_accumulated_batches_count_once(average):
    average.step(1, 4.0)
    assert average.step(1, 9.0) == 4
    assert int(average._average_model.n_averaged) == 1
