"""How strongly the end of each block uses the layers before it (the paper's figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from delugeserve.errors import CheckpointError
from delugeserve.networks.checkpoint import Checkpoint
from delugeserve.plotting import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class BlockConnectivity:
    """The norms of the cross-layer weights that a block's end gives to the block's outputs.

    Attributes:
        block: the block's number, from 1.
        reader: what sums the outputs: the transition to the next block, or the classifier.
        layers: for each output, the number of its composite layer, from 1; 0 for the block's input,
            which is not among the outputs of the first block of a CIFAR network.
        norms: for each output, the L2 norm of its weights over the channels.
    """

    block: int
    reader: Literal["transition", "classifier"]
    layers: tuple[int, ...]
    norms: tuple[float, ...]

    @property
    def relative(self) -> tuple[float, ...]:
        """The norms divided by the largest one of the block."""
        largest = max(self.norms)
        return tuple(norm / largest if largest else 0.0 for norm in self.norms)


def measure_connectivity(checkpoint: Checkpoint) -> tuple[BlockConnectivity, ...]:
    """Compute the norms of the cross-layer weights at each transition and the classifier.

    The authors take the affine weights of the BatchNorms before each cross-layer sum. Here every
    output is normalised once, without affine weights, and ``CrossLayerSum.weight`` ``[L, C]`` is
    exactly those weights: each multiplies a signal of unit variance.

    Returns:
        One for each block, in order.

    Raises:
        CheckpointError: the network has no cross-layer weights: it is a ResNet-like baseline.
    """
    spec = checkpoint.spec
    last = len(spec.architecture.layers)
    measured: list[BlockConnectivity] = []
    for block, num_layers in enumerate(spec.architecture.layers, 1):
        name = "head.sum.weight" if block == last else f"transitions.{block - 1}.sum.weight"
        if name not in checkpoint.state:
            raise CheckpointError(
                f"'{spec.name}' has no cross-layer weights.",
                "Give a checkpoint of a DelugeNet; baselines sum without weights.",
            )
        norms = checkpoint.state[name].float().norm(dim=1).tolist()
        # The block's input is among the outputs where there is one more than layers.
        first = num_layers + 1 - len(norms)
        measured.append(
            BlockConnectivity(
                block,
                "classifier" if block == last else "transition",
                tuple(range(first, num_layers + 1)),
                tuple(norms),
            )
        )
    return tuple(measured)


def draw_connectivity(blocks: Sequence[BlockConnectivity], name: str) -> Figure:
    """Draw the relative norms: a panel for each block, a bar for each output.

    Args:
        blocks: the blocks of one network.
        name: the network's name.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(10, 4)
    from matplotlib.ticker import MaxNLocator

    panels = figure.subplots(
        1,
        len(blocks),
        sharey=True,
        squeeze=False,
        width_ratios=[2 + len(block.norms) for block in blocks],
    )
    for axes, block in zip(panels[0], blocks, strict=True):
        axes.bar(block.layers, block.relative, width=0.7)
        axes.set_title(f"block {block.block}, {block.reader}", loc="left", fontsize=10)
        axes.set_xlim(block.layers[0] - 0.6, block.layers[-1] + 0.6)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    panels[0, 0].set_ylabel("norm of the weights (L2),\nrelative to the block's largest")
    figure.supxlabel("composite layer (0: the block's input)", fontsize=10)
    figure.suptitle(
        f"{name}: cross-layer weights at the end of each block", x=0.01, ha="left", fontsize=11
    )
    return figure
