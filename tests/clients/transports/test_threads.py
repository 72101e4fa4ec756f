import threading

from delugeserve_client.transports.threads import Timers


def test_a_function_that_fails_does_not_end_the_timers():
    timers, called = Timers(), threading.Event()

    def fail():
        raise LookupError

    timers.call_later(0.0, fail)
    timers.call_later(0.001, called.set)
    assert called.wait(30)
    timers.close()
