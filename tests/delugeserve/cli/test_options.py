"""Lists and ranges of numbers on the command line."""

from __future__ import annotations

import pytest

from delugeserve.cli.options import parse_counts, parse_rates
from delugeserve.errors import UsageError


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("4", [4]),
        ("8,1,8", [8, 1]),
        ("1:16:5", [1, 6, 11, 16]),
        ("2:4", [2, 3, 4]),
        ("1:8:5", [1, 6]),
    ],
)
def test_whole_numbers(text, counts):
    assert parse_counts("--batch-size", text) == counts
    assert all(isinstance(count, int) for count in counts)


@pytest.mark.parametrize(
    "text", ["", "0", "1,", "1.5", "4:1", "1:4:0", "1:2:3:4", "a", "1:999999999"]
)
def test_what_is_no_list_of_whole_numbers(text):
    with pytest.raises(UsageError):
        parse_counts("--batch-size", text)


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("22.5,100", [22.5, 100]),
        ("50:200:50", [50, 100, 150, 200]),
        ("0.1:0.3:0.1", [0.1, 0.2, 0.3]),
    ],
)
def test_rates(text, rates):
    assert parse_rates("--rate", text) == pytest.approx(rates)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1:inf:1", "1:2:nan", "fast"])
def test_what_is_no_rate(text):
    with pytest.raises(UsageError):
        parse_rates("--rate", text)
