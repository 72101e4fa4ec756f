"""Which layers can be afforded in int8: the others stay in the higher precision.

Everything is measured on the artefact itself, as it will be served: a runtime may round, fuse or
err in ways that a simulation would not show.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.records import Loss
from delugeserve.errors import ParityError

OnStep = Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    """Which layers are quantised.

    Attributes:
        layers: in int8.
        kept: in the higher precision, the most harmful first.
        loss: of the choice.
        sensitivity: the logit error with one layer alone in int8, by layer; empty if all layers
            could be afforded at once and nothing had to be found out.
    """

    layers: tuple[str, ...]
    kept: tuple[str, ...]
    loss: Loss
    sensitivity: Mapping[str, float]


def loss_of(
    logits: NDArray[np.float32],
    reference: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
) -> Loss:
    """Compare quantised logits with the network's, both ``[N, classes]``.

    The drop is that of the top-1 accuracy; without labels it is the share of images on which the
    two disagree, which is never smaller.
    """
    answers, expected = logits.argmax(axis=1), reference.argmax(axis=1)
    if labels is None:
        drop = np.mean(answers != expected)
    else:
        drop = np.mean(expected == labels) - np.mean(answers == labels)
    error = np.sqrt(np.mean((logits.astype(np.float64) - reference) ** 2))
    return Loss(100 * float(drop), float(error) / (float(reference.std()) or 1.0))


def choose_layers(
    layers: Sequence[str],
    measure: Callable[[Collection[str]], Loss],
    sensitivity_of: Callable[[str], float],
    max_drop: float,
    on_step: OnStep = lambda _: None,
) -> Choice:
    """Quantise as many layers as the budget allows.

    If quantising all of them costs too much, each is measured alone, and they go back to the higher
    precision one after the other, the most harmful first, until the budget holds.

    Args:
        layers: all that can be quantised.
        measure: what it costs to quantise exactly these.
        sensitivity_of: the logit error with one layer alone in int8.
        max_drop: the budget, in points of top-1.
        on_step: told what is being measured.

    Raises:
        ParityError: the budget does not hold with any layer quantised.
    """
    on_step("measuring int8")
    loss = measure(layers)
    if loss.drop <= max_drop:
        return Choice(tuple(layers), (), loss, {})
    sensitivity = {}
    for number, layer in enumerate(layers, start=1):
        on_step(f"measuring layer {number} of {len(layers)} alone")
        sensitivity[layer] = sensitivity_of(layer)
    order = sorted(layers, key=lambda layer: sensitivity[layer], reverse=True)
    for number in range(1, len(order) + 1):
        on_step(f"measuring int8 without the {number} most harmful layers")
        kept = order[:number]
        left = tuple(layer for layer in layers if layer not in kept)
        loss = measure(left)
        if loss.drop <= max_drop and left:
            return Choice(left, tuple(kept), loss, sensitivity)
    if loss.drop <= max_drop:
        raise ParityError(
            f"No layer can be int8 within {max_drop:g} points of top-1.",
            "Raise --max-drop, or choose another --precision.",
        )
    raise ParityError(
        f"Top-1 drops by {loss.drop:.2f} points even without int8, and {max_drop:g} are allowed.",
        "Allow more with --max-drop, or say --precision fp32.",
    )
