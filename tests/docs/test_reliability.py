"""docs/reliability.md against the state machine that it describes."""

from __future__ import annotations

import re
from pathlib import Path

from delugeserve.serving.fleet.states import TRANSITIONS, Rules, State

TEXT = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[tuple[str, ...]]:
    table = TEXT.partition(f"\n{heading}\n")[2].partition("\n\n")[0]
    cells = [line.strip("|").split("|") for line in table.splitlines()[1:]]
    return [tuple(cell.strip() for cell in line) for line in cells]


def test_the_table_of_transitions_is_the_codes():
    assert rows("| from | to | when |") == [
        (before.value, after.value, why) for (before, after), why in TRANSITIONS.items()
    ]


def test_the_table_of_states_is_the_codes():
    assert [state for state, _ in rows("| state | meaning |")] == [state.value for state in State]


def test_the_times_are_the_codes():
    rules = Rules()
    text = TEXT.partition("## Backoff and crash loops")[2]
    assert f"lost {rules.steady:.0f} seconds after its proof" in text
    assert f"from {rules.first_delay:g} to {rules.longest_delay:.0f} seconds" in text
    assert rules.loop_losses == 5
    assert re.search(rf"Five failed attempts within {rules.loop_seconds:.0f} seconds", text)
