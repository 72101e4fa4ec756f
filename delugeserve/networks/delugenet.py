"""DelugeNet (Kuen et al., arXiv 1611.05552): stem, blocks with transitions between them, head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from delugeserve.networks.layers import Block, Head, Transition, module_list
from delugeserve.zoo import ModelSpec


class CifarStem(nn.Module):
    """Conv3x3 to the first base width. Its output is no output of the first block.

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


_STEMS: dict[str, type[CifarStem | ImageNetStem]] = {
    "cifar": CifarStem,
    "imagenet": ImageNetStem,
}


class DelugeNet(nn.Module):
    """A DelugeNet as it is trained.

    Args:
        spec: widths, layers, stem and number of classes. Weights start as in the paper: He normal
            over fan-out for convolutions, ``1 / L`` for cross-layer weights.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        stem = _STEMS[spec.stem](spec.widths[0])
        self.stem = stem
        channels = stem.out_channels
        blocks: list[Block] = []
        transitions: list[Transition] = []
        for width, layers in zip(spec.widths, spec.layers, strict=True):
            if blocks:
                transitions.append(Transition(blocks[-1].num_outputs, channels, 2 * width))
                channels = 2 * width
            block = Block(channels, width, layers, input_is_output=channels == 2 * width)
            blocks.append(block)
            channels = 2 * width
        self.blocks = module_list(blocks)
        self.transitions = module_list(transitions)
        self.head = Head(blocks[-1].num_outputs, channels, spec.dataset.num_classes)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised RGB images ``[N, 3, H, W]`` to logits ``[N, num_classes]``."""
        x = self.stem(images)
        outputs = self.blocks[0](x)
        for transition, block in zip(self.transitions, self.blocks[1:], strict=True):
            outputs = block(transition(outputs))
        logits: Tensor = self.head(outputs)
        return logits


def build_network(spec: ModelSpec, *, seed: int | None = None) -> DelugeNet:
    """Make a freshly initialised network.

    Args:
        spec: the model, see :func:`delugeserve.zoo.find_model`.
        seed: of the initial weights; None draws from torch's global generator.
    """
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return DelugeNet(spec)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
