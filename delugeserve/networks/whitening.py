"""A whitening first convolution: its filters are the principal components of image patches.

As in Keller Jordan's cifar10-airbench (https://github.com/KellerJordan/cifar10-airbench), each
component comes with both signs, so that a ReLU loses neither half.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@torch.no_grad()
def whiten(conv: nn.Conv2d, images: Tensor) -> None:
    """Set a convolution's weights to the whitening filters of its input's patches.

    Filters are eigenvectors of the patches' second moments, divided by the square root of their
    eigenvalues: the largest come first, each followed by its negative. Filters that are left over
    keep their weights.

    Args:
        conv: the convolution, of C input channels and kernel size k.
        images: normalised images ``[N, C, H, W]``; a few thousand are enough.
    """
    out, channels, height, width = conv.weight.shape
    patches = F.unfold(images.float(), (height, width), stride=height).transpose(1, 2)
    patches = patches.reshape(-1, channels * height * width).double()
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + _EPSILON * values.max()).sqrt()).T.flip(0)
    both = torch.stack([filters, -filters], dim=1).flatten(0, 1)[:out]
    conv.weight[: len(both)] = both.view(-1, channels, height, width).to(conv.weight)


_EPSILON = 5e-4
