import pytest
import torch
import torch.nn.functional as F
from torch import nn

from delugeserve.networks.whitening import whiten


def correlated_images(count: int = 64) -> torch.Tensor:
    noise = torch.randn(count, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(noise, 3, stride=1) + noise.mean(dim=(1, 2, 3), keepdim=True) * 9


@pytest.mark.parametrize("out", [8, 16])
def test_responses_are_uncorrelated_and_come_with_both_signs(out: int):
    images = correlated_images()
    conv = nn.Conv2d(3, out, 3, bias=False)
    whiten(conv, images)
    patches = F.unfold(images, 3, stride=3).transpose(1, 2).reshape(-1, 27)
    responses = patches @ conv.weight.detach().flatten(1).T
    torch.testing.assert_close(responses[:, ::2], -responses[:, 1::2])
    moments = responses[:, ::2].T @ responses[:, ::2] / len(responses)
    torch.testing.assert_close(moments, torch.eye(out // 2), atol=0.05, rtol=0)


def test_filters_beyond_the_components_keep_their_weights():
    conv = nn.Conv2d(1, 24, 3, bias=False)
    before = conv.weight.detach().clone()
    whiten(conv, correlated_images()[:, :1])
    assert (conv.weight[18:] == before[18:]).all()
    assert (conv.weight[:18] != before[:18]).all()
