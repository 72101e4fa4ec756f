"""The folded form of a DelugeNet for inference, without any BatchNorm.

At inference a BatchNorm is a scale and a shift per channel, and each one here is next to a linear
operation that can absorb it:

- the normalisation of a block's outputs and the BatchNorm after the cross-layer sum fold into the
  sum's weights ``[L, C]`` and a single bias ``[C]``, which makes it Eq. 1 of the paper exactly;
- the two BatchNorms inside a composite layer fold into the convolutions before them;
- the ImageNet stem's BatchNorm folds into the stem's 7x7 convolution.

A composite layer is then: weighted sum, ReLU, three convolutions with a ReLU between each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from delugeserve.networks.delugenet import DelugeNet
from delugeserve.networks.layers import Block, CrossLayerSum, module_list
from delugeserve.networks.stems import CifarStem, ImageNetStem


class WeightedSum(nn.Module):
    """Eq. 1 of the paper, ``x[c] = sum_i w[i, c] * h_i[c] + b[c]``, over unnormalised outputs.

    Args:
        weight: ``[L, C]``.
        bias: ``[C]``.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """Sum L outputs ``[N, C, H, W]`` into one tensor of that shape."""
        total: Tensor = self.bias[:, None, None]
        for h, w in zip(outputs, self.weight, strict=True):
            total = torch.addcmul(total, h, w[:, None, None])
        return total


class FoldedLayer(nn.Module):
    """A composite layer: weighted sum, ReLU, Conv1x1, ReLU, Conv3x3, ReLU, Conv1x1.

    Args:
        sum_: sum of the L earlier outputs.
        convs: the three convolutions; the first two have a bias.
    """

    def __init__(self, sum_: WeightedSum, convs: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        self.sum = sum_
        self.convs = module_list(convs)

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """Map L outputs ``[N, C, H, W]`` to the next output, ``[N, 2 * width, H, W]``."""
        x: Tensor = self.sum(outputs)
        for conv in self.convs:
            x = conv(torch.relu(x))
        return x


class FoldedBlock(nn.Module):
    """Composite layers over a growing list of unnormalised outputs.

    Args:
        layers: the composite layers.
        input_is_output: whether the block's input counts as the first output, ``h_0``.
    """

    def __init__(self, layers: Sequence[FoldedLayer], *, input_is_output: bool) -> None:
        super().__init__()
        self.layers = module_list(layers)
        self.input_is_output: bool = input_is_output

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map the input ``[N, in_channels, H, W]`` to outputs ``[N, 2 * width, H, W]``."""
        outputs = [x] if self.input_is_output else []
        for layer in self.layers:
            outputs.append(layer(outputs or [x]))
        return outputs


class FoldedTransition(nn.Module):
    """Block transition: weighted sum, then Conv3x3 of stride 2.

    The bias of the sum cannot fold into the convolution, because of its zero padding.

    Args:
        sum_: sum of all outputs of the block before it.
        conv: the convolution.
    """

    def __init__(self, sum_: WeightedSum, conv: nn.Conv2d) -> None:
        super().__init__()
        self.sum = sum_
        self.conv = conv

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """Map outputs ``[N, C, H, W]`` to ``[N, out_channels, H / 2, W / 2]``."""
        out: Tensor = self.conv(self.sum(outputs))
        return out


class FoldedHead(nn.Module):
    """Weighted sum, ReLU, global average pooling, Linear.

    Args:
        sum_: sum of all outputs of the last block.
        linear: the classifier.
    """

    def __init__(self, sum_: WeightedSum, linear: nn.Linear) -> None:
        super().__init__()
        self.sum = sum_
        self.linear = linear

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """Map outputs ``[N, C, H, W]`` to logits ``[N, num_classes]``."""
        logits: Tensor = self.linear(torch.relu(self.sum(outputs)).mean(dim=(2, 3)))
        return logits


class FoldedDelugeNet(nn.Module):
    """The inference form of a DelugeNet, returned by :func:`fold`.

    Args:
        stem: maps images ``[N, 3, H, W]`` to the input of the first block.
        blocks: the blocks.
        transitions: the transitions between the blocks, one fewer than there are blocks.
        head: maps the outputs of the last block to logits.
    """

    def __init__(
        self,
        stem: nn.Sequential,
        blocks: Sequence[FoldedBlock],
        transitions: Sequence[FoldedTransition],
        head: FoldedHead,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.blocks = module_list(blocks)
        self.transitions = module_list(transitions)
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised RGB images ``[N, 3, H, W]`` to logits ``[N, num_classes]``."""
        outputs = self.blocks[0](self.stem(images))
        for transition, block in zip(self.transitions, self.blocks[1:], strict=True):
            outputs = block(transition(outputs))
        logits: Tensor = self.head(outputs)
        return logits


@torch.no_grad()
def fold(network: DelugeNet) -> FoldedDelugeNet:
    """Fold all BatchNorms of a trained network into its sums and convolutions.

    Args:
        network: a DelugeNet; it does not change. Its running statistics are used.

    Returns:
        A network in evaluation mode that computes the same function as ``network.eval()``. It is
        computed in float64, has the dtype of ``network`` and shares no tensors with it.
    """
    transitions = [
        FoldedTransition(
            _fold_sum(transition.sum, block.norms, transition.norm), _copy(transition.conv)
        )
        for block, transition in zip(network.blocks, network.transitions, strict=False)
    ]
    head = FoldedHead(
        _fold_sum(network.head.sum, network.blocks[-1].norms, network.head.norm),
        _copy_linear(network.head.linear),
    )
    blocks = [_fold_block(block) for block in network.blocks]
    return FoldedDelugeNet(_fold_stem(network.stem), blocks, transitions, head).eval()


def _fold_stem(stem: CifarStem | ImageNetStem) -> nn.Sequential:
    if isinstance(stem, CifarStem):
        return nn.Sequential(_copy(stem.conv))
    return nn.Sequential(_fold_conv(stem.conv, stem.norm), nn.ReLU(), stem.pool, _copy(stem.widen))


def _fold_block(block: Block) -> FoldedBlock:
    layers = []
    sums = iter(block.sums)
    for index, layer in enumerate(block.layers):
        num_inputs = index + block.input_is_output
        if num_inputs > 1:
            sum_ = _fold_sum(next(sums), block.norms[:num_inputs], layer.norm1)
        else:
            # The only earlier output is read directly: what remains is the norm of the layer.
            scale, shift = _affine(layer.norm1)
            sum_ = _weighted_sum(scale[None], shift, like=layer.conv1.weight)
        convs = [
            _fold_conv(layer.conv1, layer.norm2),
            _fold_conv(layer.conv2, layer.norm3),
            _copy(layer.conv3),
        ]
        layers.append(FoldedLayer(sum_, convs))
    return FoldedBlock(layers, input_is_output=block.input_is_output)


def _fold_sum(
    sum_: CrossLayerSum, norms: Sequence[nn.BatchNorm2d], after: nn.BatchNorm2d
) -> WeightedSum:
    """Fold the norms of the inputs and the norm of the sum into the weights between them."""
    affines = [_affine(norm) for norm in norms]
    scales = torch.stack([scale for scale, _ in affines])
    shifts = torch.stack([shift for _, shift in affines])
    weight = sum_.weight.double()
    bias = (weight * shifts + sum_.bias.double()).sum(dim=0)
    after_scale, after_shift = _affine(after)
    return _weighted_sum(
        after_scale * weight * scales, after_scale * bias + after_shift, like=sum_.weight
    )


def _weighted_sum(weight: Tensor, bias: Tensor, *, like: Tensor) -> WeightedSum:
    return WeightedSum(weight.to(like.dtype), bias.to(like.dtype))


def _fold_conv(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Fold the BatchNorm that follows a convolution into it."""
    scale, shift = _affine(norm)
    folded = _copy(conv, bias=True)
    folded.weight.copy_(folded.weight.double() * scale[:, None, None, None])
    assert folded.bias is not None
    folded.bias.copy_(shift)
    return folded


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the scale and shift of a BatchNorm at inference, float64 ``[C]`` each."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        shift = shift + norm.bias.double()
    return scale, shift


def _copy(conv: nn.Conv2d, *, bias: bool = False) -> nn.Conv2d:
    copy = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        bias=bias,
        dtype=conv.weight.dtype,
    )
    copy.weight.copy_(conv.weight)
    return copy


def _copy_linear(linear: nn.Linear) -> nn.Linear:
    copy = nn.Linear(linear.in_features, linear.out_features, dtype=linear.weight.dtype)
    copy.weight.copy_(linear.weight)
    copy.bias.copy_(linear.bias)
    return copy
