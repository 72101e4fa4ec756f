"""The pages name files, layers, commands and options that exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from delugeserve.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
# Files of ours, as the pages write them; what users make (runs/, model_repository/) is not.
OURS = r"(?:delugeserve|export|clients|tests|benchmarks|docs|\.ci)/[\w./-]*"


def spans(page):
    """The text between backquotes, outside of fenced blocks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_a_page_names_exist(page):
    named = [span for span in spans(page) if re.fullmatch(OURS, span)]
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    if page.name in ("CONTRIBUTING.md", "architecture.md"):
        assert len(named) > 10
    missing = [name for name in named if not (ROOT / name).exists()]
    missing += [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_and_options_a_page_names_exist(page):
    group = typer.main.get_command(app)
    for span in spans(page):
        if not re.match(r"delugeserve [a-z]", span):
            continue
        _, name, *arguments = shlex.split(span)
        command = group.get_command(None, name)
        assert command is not None, span
        known = {
            option
            for parameter in command.params
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        given = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        assert given <= known | {"--help"}, span


def test_the_layers_are_those_that_are_checked():
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = settings["tool"]["importlinter"]["contracts"][0]
    checked = [name for layer in contract["layers"] for name in layer.split(" | ")]
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \|.*\|.*\|$", text, re.MULTILINE)
    assert listed == [name for name in checked if not name.startswith("_")]


def test_the_options_named_alone_exist():
    group = typer.main.get_command(app)
    known = {
        option
        for command in group.commands.values()
        for parameter in command.params
        for option in parameter.opts
    }
    named = {
        span.split()[0]
        for page in PAGES
        if page.name in ("troubleshooting.md", "architecture.md")
        for span in spans(page)
        if span.startswith("--")
    }
    assert len(named) > 5
    assert named <= known
