"""What the benchmarks measure is what they say: networks, sums, and the bytes of those."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the benchmarks need the extra 'export'")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_resnets_are_those_of_the_field(monkeypatch):
    """Parameters as timm and torchvision count them; the speed of the network hangs on them."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import torch
    from resnets import RESNETS, ResNet

    counts = {}
    for name, (blocks, _) in RESNETS.items():
        with torch.device("meta"):
            counts[name] = sum(p.numel() for p in ResNet(blocks).parameters())
    assert counts == {"resnet101": 44_549_160, "resnet152": 60_192_808}


@pytest.fixture
def sums(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cross_layer_sums

    return cross_layer_sums


def test_the_sums_measured_are_those_of_the_network(sums):
    import torch

    from delugeserve.networks.delugenet import DelugeNet
    from delugeserve.networks.layers import CrossLayerSum
    from delugeserve.zoo import find_model

    spec = find_model("delugenet92")
    found = []
    with torch.device("meta"):
        network = DelugeNet(spec).eval()
        for module in network.modules():
            if isinstance(module, CrossLayerSum):
                module.register_forward_pre_hook(
                    lambda _, given: found.append((tuple(given[0][0].shape), len(given[0])))
                )
        network(torch.zeros(3, 3, 224, 224))
    assert found == [
        (shape, number)
        for shape, outputs in sums.block_shapes(spec, 3)
        for number in range(2, outputs + 1)
    ]


def test_the_bytes_of_sums_are_those_of_different_tensors(sums):
    tensors = sums.draw_tensors((2, 8, 4, 4), fewest=12, span=0, device="cpu")
    size = 2 * 2 * 8 * 4 * 4
    forward = sums.forward_work(tensors, 3, ["plain"])["plain"]
    assert forward.num_bytes == (12 + 4) * size
    assert len({x.data_ptr() for call in forward.calls for x in call.args[0]}) == 12
    backward = sums.backward_work(tensors, 3, ["plain"])
    assert {work.num_bytes for work in backward.values()} == {(12 + 3) * size}


def test_a_sum_that_is_wrong_is_not_timed(sums, monkeypatch):
    from delugeserve.errors import Failure

    tensors = sums.draw_tensors((2, 8, 4, 4), fewest=4, span=0, device="cpu")
    right = sums.weighted_sum
    monkeypatch.setattr(sums, "weighted_sum", lambda x, *rest: right(x, *rest) + x[0] / 16)
    with pytest.raises(Failure, match="'plain'"):
        sums.forward_work(tensors, 2, ["plain"])
