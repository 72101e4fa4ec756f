"""Which layers to quantise: the others stay in the higher precision.

Everything is measured on the artefact as it will be served. A runtime may round, fuse or fail in
ways that a simulation would not show.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.records import Loss
from delugeserve.errors import ParityError
from delugeserve.system.progress import NO_PROGRESS, Progress


@dataclass(frozen=True)
class Choice:
    """Which layers are quantised.

    Attributes:
        layers: those in int8.
        kept: those in the higher precision, the most sensitive first.
        loss: with ``layers`` in int8.
        sensitivity: logit error with one layer alone in int8, by layer; empty if all layers could
            be quantised at once.
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
    """Compare quantised logits with the network's, both float32 ``[N, classes]``.

    The drop is that of top-1 accuracy. Without labels it is the fraction of images with another
    top-1 class, which is never smaller.
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
    progress: Progress = NO_PROGRESS,
) -> Choice:
    """Quantise as many layers as the budget allows.

    If quantising all of them costs too much, each is measured alone. They then go back to the
    higher precision one after the other, the most sensitive first, until the budget holds.

    Args:
        layers: all that can be quantised.
        measure: returns the loss with exactly these layers in int8.
        sensitivity_of: returns the logit error with one layer alone in int8.
        max_drop: the budget, in percentage points of top-1.
        progress: receives a stage for each round.

    Raises:
        ParityError: the budget does not hold with any layer quantised.
    """
    progress.stage("quantise: all layers")
    loss = measure(layers)
    if loss.drop <= max_drop:
        return Choice(tuple(layers), (), loss, {})
    progress.stage("quantise: each layer alone", len(layers))
    sensitivity = {}
    for layer in layers:
        sensitivity[layer] = sensitivity_of(layer)
        progress.advance()
    order = sorted(layers, key=lambda layer: sensitivity[layer], reverse=True)
    progress.stage("quantise: without the most sensitive layers", len(order))
    for number in range(1, len(order) + 1):
        kept = order[:number]
        left = tuple(layer for layer in layers if layer not in kept)
        loss = measure(left)
        progress.advance()
        if loss.drop <= max_drop and left:
            return Choice(left, tuple(kept), loss, sensitivity)
    if loss.drop <= max_drop:
        raise ParityError(
            f"No layer can be int8 within --max-drop {max_drop:g} points of top-1.",
            "Raise --max-drop, or use another --precision.",
        )
    raise ParityError(
        f"Even without int8, top-1 drops by {loss.drop:.2f} points; --max-drop is {max_drop:g}.",
        "Raise --max-drop, or use another --backend.",
    )
