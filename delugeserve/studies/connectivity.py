"""How strongly the end of each block uses the layers before it (the paper's figure 3).

The paper draws the norms of the cross-layer weights, which can be read in two ways. In the authors'
code a weight is the gain of a BatchNorm, so it multiplies a signal of unit variance. In Eq. 1 it
multiplies the output ``h`` itself: that weight is the gain divided by the standard deviation of
``h``, as in the folded form. The two rank the layers differently, because the deviations differ by
more than a factor of ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from delugeserve.errors import CheckpointError
from delugeserve.networks.checkpoint import Checkpoint
from delugeserve.networks.delugenet import DelugeNet
from delugeserve.plotting import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_BAR = 0.4
"""Width of a bar, in layers."""


@dataclass(frozen=True)
class BlockConnectivity:
    """The norms of the cross-layer weights that a block's end gives to the block's outputs.

    Attributes:
        block: the block's number, from 1.
        reader: what sums the outputs: the transition to the next block, or the classifier.
        layers: for each output, the number of its composite layer, from 1; 0 for the block's input,
            which is not among the outputs of the first block of a CIFAR network.
        norms: for each output, the L2 norm over the channels of its BatchNorm gains.
        raw_norms: the same of its weights in Eq. 1, which multiply the unnormalised output: gain
            divided by standard deviation.
    """

    block: int
    reader: Literal["transition", "classifier"]
    layers: tuple[int, ...]
    norms: tuple[float, ...]
    raw_norms: tuple[float, ...]

    @property
    def relative(self) -> tuple[float, ...]:
        """``norms`` divided by the largest one of the block."""
        return _relative(self.norms)

    @property
    def raw_relative(self) -> tuple[float, ...]:
        """``raw_norms`` divided by the largest one of the block."""
        return _relative(self.raw_norms)


def _relative(norms: tuple[float, ...]) -> tuple[float, ...]:
    largest = max(norms)
    return tuple(norm / largest if largest else 0.0 for norm in norms)


def measure_connectivity(checkpoint: Checkpoint) -> tuple[BlockConnectivity, ...]:
    """Compute the norms of the cross-layer weights at each transition and the classifier.

    Every output is normalised once, without affine weights, and ``CrossLayerSum.weight`` ``[L, C]``
    holds what the authors' code has as the affine weights of one BatchNorm for each reader.

    Returns:
        One for each block, in order.

    Raises:
        CheckpointError: the network has no cross-layer weights: it is a ResNet-like baseline.
    """
    network = checkpoint.build()
    if not isinstance(network, DelugeNet):
        raise CheckpointError(
            f"'{checkpoint.spec.name}' has no cross-layer weights.",
            "Give a checkpoint of a DelugeNet; baselines sum without weights.",
        )
    measured: list[BlockConnectivity] = []
    for number, (block, follower) in enumerate(
        zip(network.blocks, network.followers, strict=True), 1
    ):
        gains = follower.sum.weight.detach().float()
        variances = torch.stack([norm.get_buffer("running_var") for norm in block.norms])
        raw = gains / (variances + block.norms[0].eps).sqrt()
        # The block's input is among the outputs where there is one more than layers.
        first = 0 if block.input_is_output else 1
        measured.append(
            BlockConnectivity(
                number,
                "classifier" if number == len(network.blocks) else "transition",
                tuple(range(first, first + len(gains))),
                tuple(gains.norm(dim=1).tolist()),
                tuple(raw.norm(dim=1).tolist()),
            )
        )
    return tuple(measured)


def draw_connectivity(blocks: Sequence[BlockConnectivity], name: str) -> Figure:
    """Draw the relative norms: a panel for each block, two bars for each output.

    Args:
        blocks: the blocks of one network.
        name: the network's name.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(10, 4.3)
    from matplotlib.ticker import MaxNLocator

    panels = figure.subplots(
        1,
        len(blocks),
        sharey=True,
        squeeze=False,
        width_ratios=[2 + len(block.norms) for block in blocks],
    )
    for axes, block in zip(panels[0], blocks, strict=True):
        for offset, heights, label in (
            (-_BAR / 2, block.relative, "BatchNorm gain, of the normalised output"),
            (_BAR / 2, block.raw_relative, "weight in Eq. 1, of the output itself"),
        ):
            axes.bar([layer + offset for layer in block.layers], heights, _BAR, label=label)
        axes.set_title(f"block {block.block}, {block.reader}", loc="left", fontsize=10)
        axes.set_xlabel("composite layer")
        axes.set_xlim(block.layers[0] - 0.6, block.layers[-1] + 0.6)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    panels[0, 0].set_ylabel("norm of the weights (L2),\nrelative to the block's largest")
    figure.suptitle(
        f"{name}: cross-layer weights at the end of each block (layer 0: the block's input)",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    bars = panels[0, 0].get_legend_handles_labels()
    figure.legend(*bars, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure
