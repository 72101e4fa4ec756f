"""Every command in the README and in docs/ parses, and every make target there exists."""

import itertools
import re
from pathlib import Path

import pytest
import typer

from delugeserve.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_parses(page, console_commands):
    group = typer.main.get_command(app)
    for program, *arguments in console_commands(page):
        if program == "delugeserve":
            while arguments[0] in ("--debug", "--quiet"):  # options of all commands
                del arguments[0]
            command = group.get_command(None, arguments[0])
            assert command is not None, arguments
            command.make_context(arguments[0], arguments[1:], resilient_parsing=False)


def test_every_make_target_exists(console_commands):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {
        word
        for page in PAGES
        for words in console_commands(page)
        for before, word in itertools.pairwise(words)
        if before == "make" and "=" not in word
    }
    assert used <= targets
    assert {"demo", "test", "test-fast"} <= used


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (help .*)", makefile, re.MULTILINE)
    listed = re.findall(r"^([a-z-]+):.*## .", makefile, re.MULTILINE)
    assert sorted(listed) == sorted(phony.split())
