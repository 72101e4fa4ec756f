"""A connection to Ray that neither prints to standard output nor takes the signals."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from delugeserve.errors import Failure, UsageError, reason_of

_log = logging.getLogger(__name__)

SPARE_CPUS = 3
"""CPUs of Ray beside those of the workers, for the tasks that read the list and write the rows."""


@contextlib.contextmanager
def ray_session(address: str | None, workers: int | None) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine.

    Args:
        address: of the cluster; None starts Ray here.
        workers: processes that will work at once here; None for one for each CPU.

    Raises:
        UsageError: there is no such cluster.
        Failure: Ray does not start here.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    if not _log.isEnabledFor(logging.DEBUG):
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    options: dict[str, Any] = {"address": address}
    if address is None:
        # Besides the workers run the tasks that read the list and write the rows. They wait for
        # the workers, and take next to no CPU.
        options = {"num_cpus": (workers or _own_cpus()) + SPARE_CPUS, "include_dashboard": False}
    try:
        logging.getLogger("ray").setLevel(logging.ERROR)
        with _own_signals():
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
    except Exception as error:  # Ray raises Exception itself where a machine is too busy
        if address is not None:
            raise UsageError(
                f"No Ray cluster answers at {address}: {reason_of(error).rstrip('.')}.",
                "Start one with 'ray start --head', or leave out --ray-address; a cluster that "
                "asks for a token needs RAY_AUTH_MODE=token.",
            ) from error
        raise Failure(
            f"Ray did not start: {reason_of(error).rstrip('.')}.",
            "Run it again when the machine is less busy.",
        ) from error
    with _messages_apart():
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _messages_apart() -> Iterator[None]:
    """Keep what Ray prints out of standard output, which is for results."""
    if _log.isEnabledFor(logging.DEBUG):
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


@contextlib.contextmanager
def quiet_ray_data() -> Iterator[None]:
    """Keep Ray Data's messages out of the terminal, unless debug messages are wanted."""
    if _log.isEnabledFor(logging.DEBUG):
        yield
        return
    handlers = [
        handler
        for handler in logging.getLogger("ray.data").handlers
        if isinstance(handler, logging.StreamHandler)
        and not isinstance(handler, logging.FileHandler)
    ]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handlers of signals; Ray's would end the process without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _own_cpus() -> int:
    return len(os.sched_getaffinity(0))
