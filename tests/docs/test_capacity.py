"""The arithmetic of docs/capacity.md, and the figures that it takes from other pages."""

import math
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "capacity.md").read_text(encoding="utf-8")
LOAD, UTILISATION, CORES, PRICE = 10_000, 0.6, 8, 0.04
SERVER_SHARE = 0.93  # of delugenet92, an estimate


def rows(heading):
    """The cells of the table whose heading begins so."""
    lines = PAGE.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading}"))
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def number(text):
    return float(text.replace(",", ""))


RATES = {(row[0], row[2], row[3]): row for row in rows("network | input")}


def rate(text):
    """Images per second and core of a row of the second table."""
    if text.startswith("decoding"):
        (row,) = [row for (name, *_), row in RATES.items() if name.startswith("decoding")]
        return number(row[6])
    name, what = text.split(", ")
    (row,) = [
        row
        for (network, runtime, requests), row in RATES.items()
        if network == name and (requests.startswith(what) or runtime.endswith(what))
    ]
    return number(row[6]) * (SERVER_SHARE if "in process" in row[5] else 1)


@pytest.mark.parametrize("row", list(RATES.values()), ids=lambda row: f"{row[0]}, {row[3]}")
def test_rates_a_core_follow_from_those_measured(row):
    cores = 1 if "one core" in row[5] else 2
    assert number(row[6]) == pytest.approx(number(row[4]) / cores, abs=0.51)


@pytest.mark.parametrize("row", list(rows("network, requests")), ids=lambda row: row[0])
def test_replicas_and_cost_follow_from_the_rates(row):
    full = LOAD / rate(row[0])
    spare = 0 if row[0].startswith("decoding") else 1  # it shares the pods of its network
    pods = math.ceil(full / UTILISATION / CORES) + spare
    cost = pods * CORES * PRICE / (LOAD * 3600) * 1e6
    assert [number(cell) for cell in row[1:4]] == [
        pytest.approx(full, abs=0.06),
        pytest.approx(full / UTILISATION, abs=0.06),
        pods,
    ]
    assert number(row[4]) == pytest.approx(cost, abs=0.0051)


def test_the_figures_are_those_of_other_pages():
    served = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    speed = (ROOT / "README.md").read_text(encoding="utf-8")
    decoding = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    for (name, runtime, requests), row in RATES.items():
        if "server" in row[5]:
            size, flying = re.match(r"(?:batches of (\d+)|single images), (\d+)", requests).groups()
            (line,) = [
                line
                for line in served.splitlines()
                if line.startswith(f"| Triton | {size or 1} | {flying} |")
            ]
            column = {"`delugenet38`": 4, "`delugenet146`": 7}[name]
            assert row[4] == [cell.strip() for cell in line.split("|")][column]
        elif "in process" in row[5]:
            (milliseconds,) = re.findall(rf"^\| {runtime} \| (\d+) \|", speed, re.M)
            assert number(row[4]) == pytest.approx(8 / int(milliseconds) * 1000, abs=0.51)
        else:
            assert f"decodes about {row[4]} training images per second" in decoding
