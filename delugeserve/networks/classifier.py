"""A network as a classifier of uint8 images: normalisation, forward pass, logits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from delugeserve.zoo import Task


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalise pixels per channel: ``(x / 255 - mean) / std``.

    Args:
        images: uint8 ``[N, H, W, 3]``.
        mean: float32 ``[3]``, mean of the pixels in [0, 1].
        std: float32 ``[3]``, standard deviation of the pixels in [0, 1].

    Returns:
        float32 ``[N, 3, H, W]`` in channels-last memory; the permutation copies nothing.
    """
    scaled = (images.float() - 255 * mean) / (255 * std)
    return scaled.permute(0, 3, 1, 2)


def network_classifier(
    network: nn.Module, task: Task
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Wrap a network as a function from uint8 images to logits.

    The network is switched to evaluation mode and channels-last memory, and stays on its device.

    Args:
        network: maps normalised float32 images ``[N, 3, H, W]`` to logits ``[N, num_classes]``.
        task: mean and standard deviation of the pixels.

    Returns:
        A function that maps uint8 images ``[N, H, W, 3]`` to float32 logits
        ``[N, num_classes]``.
    """
    network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    device = next(network.parameters()).device
    mean = torch.tensor(task.mean, device=device)
    std = torch.tensor(task.std, device=device)

    def classify(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            batch = normalise(torch.from_numpy(images).to(device), mean, std)
            # forward() bypasses the compiled form, which would be compiled again for this mode.
            logits: NDArray[np.float32] = network.forward(batch).cpu().numpy()
        return logits

    return classify
