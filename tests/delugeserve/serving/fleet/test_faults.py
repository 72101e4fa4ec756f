"""Why a fleet gave up, and what to do about it."""

import pytest

from delugeserve.errors import ServerError
from delugeserve.serving.fleet.faults import explain_fault

SMALL = ServerError("The shared memory is too small.", "Enlarge it.", reasons={"m": "full"})
KILLED = ServerError("The server died (SIGKILL).", "Keep the log.")


@pytest.mark.parametrize("errors", [[SMALL], [SMALL, KILLED]])
def test_the_remedy_is_that_of_the_fault_and_not_of_what_followed(errors):
    assert explain_fault(SMALL.problem, errors, "") is SMALL


def test_a_crash_loop_has_the_remedy_of_its_cause():
    fault = f"Replicas failed 5 times within 60 seconds: {SMALL.problem}"
    error = explain_fault(fault, [SMALL, KILLED], "last line")
    assert (error.problem, error.remedy) == (fault, SMALL.remedy)
    assert (error.log_tail, error.reasons) == ("last line", {"m": "full"})


def test_an_unknown_fault_asks_for_the_log():
    error = explain_fault("It ended.", [KILLED], "last line")
    assert "--log" in error.remedy
    assert error.log_tail == "last line"
