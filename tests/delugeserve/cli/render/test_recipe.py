import dataclasses

import pytest

from delugeserve.cli.render.recipe import print_recipe
from delugeserve.training.recipes import find_recipe


def printed(capsys: pytest.CaptureFixture[str], **values: object) -> list[str]:
    print_recipe(dataclasses.replace(find_recipe("cifar-quick"), **values))
    return [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]


def test_what_is_switched_off_is_left_out(capsys: pytest.CaptureFixture[str]):
    lines = printed(capsys)
    assert "epochs 30" in lines
    assert not [line for line in lines if line.startswith(("cutout", "muon", "bias", "milestones"))]


def test_what_was_overridden_is_printed_with_its_default(capsys: pytest.CaptureFixture[str]):
    assert "ema decay 0 (default 0.999)" in printed(capsys, ema_decay=0.0)
    lines = printed(capsys, muon_rate=0.05)
    assert "muon rate 0.05 (default 0)" in lines
    assert "muon momentum 0.95" in lines
