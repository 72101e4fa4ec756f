"""docs/clients.md names every error, its attributes, and every suffix, and no other."""

import re
from pathlib import Path

import pytest

import delugeserve_client
from delugeserve_client.errors import ClientError
from delugeserve_client.formats import FORMATS, SUFFIXES

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text(encoding="utf-8")


def rows(heading):
    """The cells of the table under a heading, as the names in backticks in each."""
    section = PAGE.split(f"# {heading}\n")[1].split("\n#")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[re.findall(r"`(\w+)`", cell) for cell in line.split("|")[1:-1]] for line in lines]


def test_every_public_error_is_documented():
    public = (getattr(delugeserve_client, name) for name in delugeserve_client.__all__)
    errors = {value.__name__ for value in public
              if isinstance(value, type) and issubclass(value, ClientError)}  # fmt: skip
    assert {cells[0][0] for cells in rows("Errors")} == errors - {"ClientError"}


@pytest.mark.parametrize("cells", rows("Errors"), ids=lambda cells: cells[0][0])
def test_every_error_has_its_attributes(cells):
    name, attributes = cells[0], cells[-1]
    error = getattr(delugeserve_client, name[0])
    assert issubclass(error, ClientError)
    if len(name) > 1:
        assert issubclass(error, getattr(delugeserve_client, name[1]))
    assert set(attributes) <= vars(error("It failed.", "Try again.")).keys()


def test_every_suffix_is_documented():
    item = PAGE.split("The suffixes that count are")[1].split("in upper or lower case")[0]
    always = [suffix for suffix in SUFFIXES if suffix not in FORMATS.get("HEIF", ())]
    assert sorted(re.findall(r"`(\.\w+)`", item)) == always
