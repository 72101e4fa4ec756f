"""The layers before the first block: one stem for CIFAR's small images, one for ImageNet's."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CifarStem(nn.Module):
    """Conv3x3 to the first base width; its output does not count among the first block's outputs.

    Args:
        width: base width of the first block.
    """

    out_channels: int

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_channels = width
        self.conv = nn.Conv2d(3, width, 3, padding=1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map ``[N, 3, H, W]`` to ``[N, width, H, W]``."""
        out: Tensor = self.conv(images)
        return out


class ImageNetStem(nn.Module):
    """Conv7x7 of stride 2, BN, ReLU, MaxPool3x3 of stride 2, Conv1x1 to the first block's channels.

    Args:
        width: base width of the first block.
    """

    out_channels: int

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_channels = 2 * width
        self.conv = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.widen = nn.Conv2d(64, 2 * width, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map ``[N, 3, H, W]`` to ``[N, 2 * width, H / 4, W / 4]``."""
        out: Tensor = self.widen(self.pool(torch.relu(self.norm(self.conv(images)))))
        return out


STEMS: dict[str, type[CifarStem | ImageNetStem]] = {
    "cifar": CifarStem,
    "imagenet": ImageNetStem,
}
