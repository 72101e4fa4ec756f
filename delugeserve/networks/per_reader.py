"""The authors' form of a DelugeNet, for comparison: each reader normalises each of its inputs.

It is the same function with the same gradients, but runs O(L^2) normalisations in a block of L
outputs, where :class:`~delugeserve.networks.layers.Block` runs O(L).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import cast

from torch import Tensor, nn

from delugeserve.networks.delugenet import DelugeNet
from delugeserve.networks.layers import CrossLayerSum, OutputNorm, module_list


class PerReaderSum(nn.Module):
    """Cross-layer sum as the authors compute it: ``x = sum_i BN_i(h_i)``.

    Each of the L BatchNorms has its own affine weight ``w[i, c]`` and bias ``b[i, c]``.

    Args:
        sum_: a cross-layer sum of L normalised inputs; gives the affine weights and biases.
        norms: the norms of the L inputs; give the running statistics.
    """

    def __init__(self, sum_: CrossLayerSum, norms: Iterable[OutputNorm]) -> None:
        super().__init__()
        self.norms = module_list(
            _affine(norm, weight, bias)
            for norm, weight, bias in zip(norms, sum_.weight, sum_.bias, strict=True)
        )

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """Sum L unnormalised outputs ``[N, C, H, W]`` into one tensor of that shape."""
        total: Tensor | None = None
        for norm, output in zip(self.norms, outputs, strict=True):
            normalised: Tensor = norm(output)
            total = normalised if total is None else total + normalised
        assert total is not None
        return total


def per_reader(network: DelugeNet) -> DelugeNet:
    """Return a copy of a network in the authors' form.

    Args:
        network: a DelugeNet; it does not change.

    Returns:
        The same function of images ``[N, 3, H, W]``, with other names of tensors in its state.
    """
    network = copy.deepcopy(network)
    for block, following in zip(network.blocks, network.followers, strict=True):
        block.sums = cast(
            "Sequence[CrossLayerSum]",
            module_list(PerReaderSum(s, block.norms[: len(s.weight)]) for s in block.sums),
        )
        following.sum = cast("CrossLayerSum", PerReaderSum(following.sum, block.norms))
        block.norms = cast("Sequence[OutputNorm]", module_list(nn.Identity() for _ in block.norms))
    return network


def _affine(norm: OutputNorm, weight: Tensor, bias: Tensor) -> nn.BatchNorm2d:
    own = nn.BatchNorm2d(norm.num_features, norm.eps, cast("float", norm.momentum))
    own.to(weight.device, weight.dtype)
    own.load_state_dict(norm.state_dict() | {"weight": weight.detach(), "bias": bias.detach()})
    return own
