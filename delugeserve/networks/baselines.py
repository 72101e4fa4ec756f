"""The ResNet-like baselines of the paper's table 2: DelugeNets without learned cross-layer weights.

Each cross-layer convolution becomes the plain sum of the same outputs, unnormalised and with all
weights fixed to one. That is a residual network: a running sum to which each layer adds its output.
The transition between two blocks is either BN and Conv3x3 of stride 2, as in a DelugeNet, or
Conv1x1 of stride 2 alone. Both are serial: the next block starts from their result. In a residual
network the 1x1 convolution usually stands parallel to a first layer of stride 2. The paper does not
say which it has: its GFLOPs are those of the serial form, two of its three parameter counts those
of the parallel one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from delugeserve.networks.layers import AffineNorm, CompositeLayer, module_list
from delugeserve.networks.stems import STEMS
from delugeserve.zoo import ModelSpec, Shortcut


class ResidualBlock(nn.Module):
    """Composite layers, each of which reads the sum of all earlier outputs.

    Args:
        in_channels: channels of the block's input.
        width: base width; every output has ``2 * width`` channels.
        num_layers: number of composite layers.
    """

    def __init__(self, in_channels: int, width: int, num_layers: int) -> None:
        super().__init__()
        channels = 2 * width
        self.input_is_output: bool = in_channels == channels
        self.layers = module_list(
            CompositeLayer(in_channels if index == 0 else channels, width)
            for index in range(num_layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, in_channels, H, W]`` to the sum of outputs, ``[N, 2 * width, H, W]``."""
        first, *others = self.layers
        total: Tensor = x + first(x) if self.input_is_output else first(x)
        for layer in others:
            total = total + layer(total)
        return total


def _transition(shortcut: Shortcut, in_channels: int, out_channels: int) -> nn.Sequential:
    if shortcut == "1x1":
        return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride=2, bias=False))
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False),
    )


class Baseline(nn.Module):
    """A ResNet-like baseline.

    Args:
        spec: the architecture, which is a baseline, and the number of classes.

    Raises:
        ValueError: the model is a DelugeNet.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        architecture = spec.architecture
        if architecture.baseline is None:
            raise ValueError(f"{spec.name} is not a baseline")
        self.spec = spec
        stem = STEMS[architecture.stem](architecture.widths[0])
        self.stem = stem
        channels = stem.out_channels
        blocks: list[ResidualBlock] = []
        transitions: list[nn.Sequential] = []
        for width, layers in zip(architecture.widths, architecture.layers, strict=True):
            if blocks:
                transitions.append(_transition(architecture.baseline, channels, 2 * width))
                channels = 2 * width
            blocks.append(ResidualBlock(channels, width, layers))
            channels = 2 * width
        self.blocks = module_list(blocks)
        self.transitions = module_list(transitions)
        self.norm = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, spec.task.num_classes)

    def fuse_norms(self) -> None:
        """Fuse the composite layers' BatchNorms and ReLUs in training steps on a CPU.

        It needs g++; see :mod:`delugeserve.networks.native`. There are no weighted sums to fuse.
        """
        for module in self.modules():
            if isinstance(module, AffineNorm):
                module.fused = True

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised RGB images ``[N, 3, H, W]`` to logits ``[N, num_classes]``."""
        x = self.blocks[0](self.stem(images))
        for transition, block in zip(self.transitions, self.blocks[1:], strict=True):
            x = block(transition(x))
        logits: Tensor = self.linear(torch.relu(self.norm(x)).mean(dim=(2, 3)))
        return logits
