"""Which layers stay in the higher precision: the most harmful, and no more than needed."""

import numpy as np
import pytest

from delugeserve.errors import ParityError
from delugeserve_export.mixed_precision import Loss, choose_layers, loss_of

HARM = {"a": 1, "b": 8, "c": 2, "d": 4}


def choose(max_drop, harm=HARM, base=0):
    asked = []

    def measure(layers):
        asked.append(tuple(layers))
        drop = base + sum(harm[layer] for layer in layers)
        return Loss(drop, drop / 10)

    choice = choose_layers(list(harm), measure, harm.__getitem__, max_drop)
    return choice, asked


def test_all_layers_when_they_can_be_afforded():
    choice, asked = choose(15)
    assert choice.layers == ("a", "b", "c", "d")
    assert choice.kept == ()
    assert choice.sensitivity == {}
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("max_drop", "layers", "kept"),
    [(14, "acd", "b"), (7, "acd", "b"), (6, "ac", "bd"), (1, "a", "bdc")],
)
def test_the_most_harmful_go_first(max_drop, layers, kept):
    choice, asked = choose(max_drop)
    assert choice.layers == tuple(layers)
    assert choice.kept == tuple(kept)
    assert choice.sensitivity == HARM
    assert asked[-1] == choice.layers, "what is published is what was measured"
    assert choice.loss.drop <= max_drop


def test_a_budget_that_no_layer_meets():
    with pytest.raises(ParityError, match="No layer") as caught:
        choose(0.5)
    assert "--max-drop" in caught.value.remedy


def test_a_budget_that_nothing_meets():
    with pytest.raises(ParityError, match=r"3\.00 points"):
        choose(2, base=3)


LABELS = np.array([0, 1, 2, 0])
NETWORK = np.eye(3, dtype=np.float32)[[0, 1, 2, 1]]  # the last is wrong
OTHER = np.eye(3, dtype=np.float32)[[1, 1, 2, 0]]  # the first is wrong


def test_the_drop_is_of_accuracy_or_else_of_agreement():
    assert loss_of(OTHER, NETWORK, LABELS).drop == 0
    assert loss_of(OTHER, NETWORK, None).drop == 50
    assert loss_of(NETWORK[[1, 1, 2, 1]], NETWORK, LABELS).drop == 25
    assert loss_of(NETWORK, NETWORK, LABELS) == Loss(0, 0)
