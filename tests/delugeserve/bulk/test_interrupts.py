"""Signals while rows are written."""

import os
import signal
import threading

import pytest

from delugeserve.bulk.interrupts import Interrupted, interrupts_held, interrupts_raised


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_what_must_not_be_interrupted(number):
    before = signal.getsignal(number)
    done = []
    with pytest.raises(Interrupted) as caught:  # noqa: PT012, SIM117
        with interrupts_raised():
            with interrupts_held():
                os.kill(os.getpid(), number)
                done.append("written")
            done.append("not reached")
    assert done == ["written"]
    assert caught.value.number == number
    assert signal.getsignal(number) is before


def test_a_signal_is_raised_at_once_elsewhere():
    with pytest.raises(Interrupted), interrupts_raised():  # noqa: PT012
        with interrupts_held():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()


def test_other_threads_are_left_alone():
    def work():
        with interrupts_raised(), interrupts_held():
            done.append(signal.getsignal(signal.SIGTERM))

    done = []
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [before]
