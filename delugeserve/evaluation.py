"""Error of a classifier on labelled images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from delugeserve.data.augmentation import normalise
from delugeserve.data.datasets import LabelledImages
from delugeserve.zoo import DatasetSpec

Classify = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Maps uint8 images ``[N, H, W, 3]`` to logits or probabilities ``[N, classes]``."""


@dataclass(frozen=True)
class Evaluation:
    """How often a classifier is wrong.

    Attributes:
        num_images: images it was asked about.
        top1_error: percent of them whose label is not the first answer.
        top5_error: percent of them whose label is not among the first five answers.
    """

    num_images: int
    top1_error: float
    top5_error: float


def evaluate(
    classify: Classify,
    data: LabelledImages,
    *,
    batch_size: int = 250,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Measure top-1 and top-5 error.

    Args:
        classify: the classifier.
        data: images and labels.
        batch_size: images in one call.
        on_progress: told the number of images after each call.
    """
    wrong1 = wrong5 = 0
    for start in range(0, len(data.labels), batch_size):
        images = data.images[start : start + batch_size]
        labels = data.labels[start : start + batch_size, None]
        scores = classify(images)
        # The rank of the label: how many classes score higher.
        rank = (scores > np.take_along_axis(scores, labels, axis=1)).sum(axis=1)
        wrong1 += int((rank >= 1).sum())
        wrong5 += int((rank >= 5).sum())
        on_progress(len(images))
    total = len(data.labels)
    return Evaluation(total, 100 * wrong1 / total, 100 * wrong5 / total)


def network_classifier(network: nn.Module, dataset: DatasetSpec) -> Classify:
    """Wrap a network as a classifier of uint8 images, in float32 on its own device."""
    network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    device = next(network.parameters()).device
    mean = torch.tensor(dataset.mean, device=device)
    std = torch.tensor(dataset.std, device=device)

    def classify(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            batch = torch.from_numpy(images).to(device)
            logits: NDArray[np.float32] = network(normalise(batch, mean, std)).cpu().numpy()
        return logits

    return classify
