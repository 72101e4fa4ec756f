"""Norms of cross-layer weights against ones worked out by hand."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from delugeserve.errors import CheckpointError
from delugeserve.networks.build import build_network
from delugeserve.networks.checkpoint import Checkpoint, save_checkpoint
from delugeserve.networks.inference import fold
from delugeserve.studies.connectivity import draw_connectivity, measure_connectivity
from delugeserve.zoo import CIFAR10, IMAGENET, Architecture, ModelSpec, find_model

TINY = ModelSpec("tiny", Architecture("tiny", "cifar", (2, 3), (2, 2)), CIFAR10)
FIRST, LAST = "transitions.0.sum.weight", "head.sum.weight"


def checkpoint(spec=TINY, **weights):
    """An untrained network's checkpoint with other cross-layer weights, or other variances."""
    state = build_network(spec, seed=0).state_dict()
    for name, weight in weights.items():
        assert weight.shape == state[name].shape
        state[name] = weight
    return Checkpoint(spec, state)


BY_HAND = checkpoint(
    **{
        FIRST: torch.tensor([[3.0, 0, 0, 4], [0, -10, 0, 0]]),
        LAST: torch.tensor([[0.0] * 6, [1, 1, 1, 1, 0, 0], [2, -2, 2, -2, 3, 0]]),
        "blocks.0.norms.0.running_var": torch.full((4,), 4.0),
        "blocks.0.norms.1.running_var": torch.tensor([1.0, 100, 1, 1]),
    }
)


def test_norms_by_hand():
    first, last = measure_connectivity(BY_HAND)
    assert (first.block, first.reader) == (1, "transition")
    assert first.layers == (1, 2), "the stem's output is no output of the first block"
    assert first.norms == pytest.approx((5, 10))
    assert first.relative == pytest.approx((0.5, 1))
    assert first.raw_norms == pytest.approx((2.5, 1), rel=1e-4), "divided by 2 and by 10"
    assert first.raw_relative == pytest.approx((1, 0.4), rel=1e-4)
    assert (last.block, last.reader) == (2, "classifier")
    assert last.layers == (0, 1, 2)
    assert last.norms == pytest.approx((0, 2, 5))
    assert last.relative == pytest.approx((0, 0.4, 1))
    assert last.raw_relative == pytest.approx(last.relative)


def test_the_first_block_of_an_imagenet_network_reads_its_entry():
    spec = ModelSpec("tiny", Architecture("tiny", "imagenet", (2, 3, 4), (1, 2, 1)), IMAGENET)
    blocks = measure_connectivity(checkpoint(spec))
    assert [block.layers for block in blocks] == [(0, 1), (0, 1, 2), (0, 1)]
    assert [block.reader for block in blocks] == ["transition", "transition", "classifier"]


@settings(deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_relative_norms_do_not_depend_on_the_scale(seed, scale):
    weight = torch.randn(3, 6, generator=torch.Generator().manual_seed(seed))
    one, scaled = (
        measure_connectivity(checkpoint(**{LAST: weights}))[1]
        for weights in (weight, scale * weight)
    )
    assert scaled.norms == pytest.approx([scale * norm for norm in one.norms], rel=1e-5)
    assert scaled.relative == pytest.approx(one.relative, rel=1e-5)
    assert max(one.relative) == 1


def test_the_raw_weights_are_those_of_the_folded_form():
    """Up to a factor per channel: that of the BatchNorm after the sum, which folds in as well."""
    network = build_network(TINY, seed=0)
    network(torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    network.eval()
    folded = fold(network)
    after = network.head.norm
    factor = after.weight / (after.running_var + after.eps).sqrt()
    norms = (folded.head.sum.weight / factor).norm(dim=1).tolist()
    measured = measure_connectivity(Checkpoint(TINY, network.state_dict()))[1]
    assert measured.raw_norms == pytest.approx(norms, rel=1e-5)
    assert measured.raw_relative != pytest.approx(measured.relative, rel=0.01)


def test_weights_that_are_all_zero():
    blocks = measure_connectivity(checkpoint(**{LAST: torch.zeros(3, 6)}))
    assert blocks[1].relative == (0, 0, 0)


def test_a_network_without_cross_layer_weights():
    spec = find_model("baseline38_3x3")
    bare = Checkpoint(spec, build_network(spec, seed=0).state_dict())
    with pytest.raises(CheckpointError, match="'baseline38_3x3' has no cross-layer weights"):
        measure_connectivity(bare)


def test_the_picture_holds_the_relative_norms():
    figure = draw_connectivity(measure_connectivity(BY_HAND), "tiny")
    heights = [[bar.get_height() for bar in axes.patches] for axes in figure.axes]
    assert heights[0] == pytest.approx([0.5, 1, 1, 0.4], rel=1e-4), "gains, then weights in Eq. 1"
    assert heights[1] == pytest.approx([0, 0.4, 1, 0, 0.4, 1])
    centres = [bar.get_center()[0] for bar in figure.axes[0].patches]
    assert centres == pytest.approx([0.8, 1.8, 1.2, 2.2])


def test_the_command(run, tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(BY_HAND, path)
    pictures = tmp_path / "c.png", tmp_path / "c.svg"
    table = tmp_path / "c.csv"
    # --output was the picture's in earlier versions.
    options = ("--plot", pictures[0], "--output", pictures[1], "--csv", table)
    status, out, _ = run("connectivity", path, *options)
    rows = [line.split() for line in out.splitlines()[2:]]
    assert status == 0
    assert [row[:3] for row in rows] == [
        ["1", "transition", "1"],
        ["1", "transition", "2"],
        ["2", "classifier", "input"],
        ["2", "classifier", "1"],
        ["2", "classifier", "2"],
    ]
    figures = [[part for part in row[3:] if not part.startswith("━")] for row in rows]
    assert figures[:2] == [["0.50", "1.00"], ["1.00", "0.40"]]
    assert figures[2:] == [["0.00", "0.00"], ["0.40", "0.40"], ["1.00", "1.00"]]
    assert pictures[0].read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in pictures[1].read_bytes()
    heading, *_, last = table.read_text().splitlines()
    assert heading == "block,reader,layer,relative,norm,raw_relative,raw_norm"
    assert last.startswith("2,classifier,2,1.0,5.0,1.0,4.9999")


def test_the_command_reads_the_shipped_weights(run):
    status, out, _ = run("connectivity", "delugenet38", "--json")
    described = json.loads(out)
    assert status == 0
    for alias in ((), ("--model", "delugenet38"), ("--checkpoint", "delugenet38")):
        assert run("connectivity", *alias, "--json")[1] == out
    assert described["model"] == "delugenet38"
    assert [len(block["norms"]) for block in described["blocks"]] == [2, 5, 7]
    assert all(max(block["relative"]) == 1 for block in described["blocks"])
    assert all(max(block["raw_relative"]) == 1 for block in described["blocks"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["delugnet38"], "Did you mean 'delugenet38'?"),
        (["delugenet146"], "No trained weights of 'delugenet146' ship"),
        (["delugenet38", "--checkpoint", "x"], "one"),
        (["none.safetensors"], "none.safetensors"),
        (["--plot", "picture.gif"], ".png or .svg"),
    ],
)
def test_what_the_command_refuses(run, options, message):
    status, out, err = run("connectivity", *options)
    assert (status, out) == (2, "")
    assert message in " ".join(err.split())


def test_a_checkpoint_of_another_model(run, tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(BY_HAND, path)
    status, _, err = run("connectivity", "--checkpoint", path, "--model", "delugenet38")
    assert status == 2
    assert "holds 'tiny'" in " ".join(err.split())
