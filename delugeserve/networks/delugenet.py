"""DelugeNet (Kuen et al., arXiv 1611.05552): stem, blocks joined by transitions, head."""

from __future__ import annotations

from torch import Tensor, nn

from delugeserve.networks.fused import Kernels
from delugeserve.networks.layers import AffineNorm, Block, Head, Transition, module_list
from delugeserve.networks.stems import STEMS
from delugeserve.zoo import ModelSpec


class DelugeNet(nn.Module):
    """The training form of a DelugeNet.

    Args:
        spec: the architecture and the number of classes.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        architecture = spec.architecture
        stem = STEMS[architecture.stem](architecture.widths[0])
        self.stem = stem
        channels = stem.out_channels
        blocks: list[Block] = []
        transitions: list[Transition] = []
        for width, layers in zip(architecture.widths, architecture.layers, strict=True):
            if blocks:
                transitions.append(Transition(blocks[-1].num_outputs, channels, 2 * width))
                channels = 2 * width
            block = Block(channels, width, layers, input_is_output=channels == 2 * width)
            blocks.append(block)
            channels = 2 * width
        self.blocks = module_list(blocks)
        self.transitions = module_list(transitions)
        self.head = Head(blocks[-1].num_outputs, channels, spec.task.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised RGB images ``[N, 3, H, W]`` to logits ``[N, num_classes]``."""
        x = self.stem(images)
        outputs = self.blocks[0](x)
        for transition, block in zip(self.transitions, self.blocks[1:], strict=True):
            outputs = block(transition(outputs))
        logits: Tensor = self.head(outputs)
        return logits

    @property
    def followers(self) -> list[Transition | Head]:
        """What reads all outputs of each block: a transition or, for the last one, the head."""
        return [*self.transitions, self.head]

    def fuse_sums(self, kernels: Kernels = "compiled") -> None:
        """Replace the cross-layer sums by fused ones that read each input once; see :mod:`.fused`.

        Args:
            kernels: ``native`` also fuses BatchNorms and ReLUs, in training steps on a CPU in bf16
                or float32; it needs g++, see :mod:`.native`. ``compiled`` needs a C++ compiler, or
                on a GPU Triton and a C compiler. ``plain`` runs everywhere, but not faster than
                unfused sums.
        """
        for block, following in zip(self.blocks, self.followers, strict=True):
            block.readers = (*block.sums, following.sum)
            block.kernels = kernels
        for module in self.modules():
            if isinstance(module, AffineNorm):
                module.fused = kernels == "native"

    def fix_sums(self) -> None:
        """Exclude the cross-layer weights and biases from training: they keep ``1 / L`` and 0."""
        for block, following in zip(self.blocks, self.followers, strict=True):
            for sum_ in (*block.sums, following.sum):
                sum_.requires_grad_(False)

    def compile_layers(self) -> None:
        """Compile each composite layer; layers of one shape share a compiled graph."""
        for block in self.blocks:
            block.compiled = True

    def checkpoint_sums(self) -> None:
        """Recompute the composite layers' sums in the backward pass, which saves their memory."""
        for block in self.blocks:
            block.checkpoints = True
