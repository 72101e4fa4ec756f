"""Every command of docs/reproduction.md can be asked for, and the paper's errors are all there."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from delugeserve.cli import app
from delugeserve.networks.flops import count
from delugeserve.training.recipes import find_recipe
from delugeserve.zoo import MODELS, find_model

PAGE = (Path(__file__).parents[2] / "docs" / "reproduction.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"`delugeserve ([^`]+)`", PAGE)
PUBLISHED = [spec for spec in MODELS.values() if spec.published]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_names_what_exists(line):
    name, *arguments = shlex.split(line)
    command = typer.main.get_command(app).get_command(None, name)
    assert command is not None
    options = command.make_context(name, arguments).params
    if options.get("model"):
        find_model(options["model"])
    if options.get("recipe"):
        find_recipe(options["recipe"])


@pytest.mark.parametrize("spec", PUBLISHED, ids=lambda spec: spec.name)
def test_every_error_of_the_paper_stands_in_a_row_of_its_network(spec):
    rows = [row for row in PAGE.splitlines() if row.startswith("|")]
    # A baseline stands beside its DelugeNet.
    name = spec.name.replace("baseline", "delugenet").replace(f"_{spec.architecture.baseline}", "")
    assert any(
        f"--model {name} " in row and f"{spec.published.top1_error:.2f}" in row for row in rows
    )


def test_the_counts_are_as_near_as_it_says():
    params = [(count(spec).params / 1e6, spec.published.params_m) for spec in PUBLISHED]
    flops = [(count(spec).flops / 1e9, spec.published.gflops) for spec in PUBLISHED]
    assert max(abs(ours / paper - 1) for ours, paper in params) < 0.005
    gaps = sorted(100 * (1 - ours / paper) for ours, paper in flops)
    assert f"{gaps[0]:.1f} to {gaps[-1]:.1f} % below each" in PAGE
