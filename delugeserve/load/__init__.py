"""Load tests of a served model by the rules of MLPerf LoadGen.

:func:`run` runs one test, :func:`find_rate` finds the highest rate that keeps a latency budget, and
:class:`Plan` does what ``delugeserve benchmark`` does.
"""

from __future__ import annotations

from delugeserve.load.plan import Plan, Report
from delugeserve.load.rate import BudgetError, RateResult, estimate_rate, find_rate
from delugeserve.load.result import LoadResult, NoAnswerError
from delugeserve.load.run import run
from delugeserve.load.scenarios import Scenario, Settings
from delugeserve.load.senders import Done, HttpSender, OpenSender, Sender, open_sender
from delugeserve.load.target import Target, prepare_target

__all__ = [
    "BudgetError",
    "Done",
    "HttpSender",
    "LoadResult",
    "NoAnswerError",
    "OpenSender",
    "Plan",
    "RateResult",
    "Report",
    "Scenario",
    "Sender",
    "Settings",
    "Target",
    "estimate_rate",
    "find_rate",
    "open_sender",
    "prepare_target",
    "run",
]
