"""Stopping a run from outside: SIGTERM and Ctrl-C (SIGINT) do the same."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from delugeserve.errors import StoppedError, TrainingError
from delugeserve.training.distributed import LostProcessError, World
from delugeserve.training.records import CONFIG_FILE
from delugeserve.training.saving import describe_state

_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class StopOnSignal(Callback):
    """Ends training after the current step, in all processes, once one of them gets a signal.

    Lightning's own handler asks the other processes from within the handler: where they got no
    signal they are at something else, and all wait for ever.

    Args:
        world: the processes that train together.

    Attributes:
        received: number of the signal that this or, as far as is known, another process got; 0 for
            none.
        epochs: number of complete epochs; None before training starts.
    """

    def __init__(self, world: World) -> None:
        self.received = 0
        self.epochs: int | None = None
        self._world = world
        self._stepping = False

    def receive(self, number: int, _frame: FrameType | None = None) -> None:
        """Handle a signal: note it while steps are made, interrupt at once otherwise.

        A second Ctrl-C interrupts the step. ``torchrun`` repeats signals, so several processes
        ignore the second.
        """
        again, self.received = self.received, number
        if again and self._world.size > 1:
            return
        if not self._stepping or again == number == signal.SIGINT:
            raise KeyboardInterrupt

    def on_train_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Replace Lightning's handler, which restores the previous one at the end."""
        self.epochs = trainer.current_epoch
        if _in_main_thread():
            signal.signal(signal.SIGTERM, self.receive)
        self._stepping = True

    def on_train_batch_end(self, *_: Any) -> None:
        """Stop together with the other processes.

        Raises:
            SIGTERMException: one of them got a signal.
        """
        if self._world.size > 1:
            anywhere = torch.tensor(self.received)
            dist.all_reduce(anywhere, dist.ReduceOp.MAX)
            self.received = int(anywhere)
        self._raise_if_received()

    def on_validation_batch_end(self, *_: Any) -> None:
        """Stop alone: not all processes have equally many test batches.

        Raises:
            SIGTERMException: this process got a signal. The others lose the connection.
        """
        self._raise_if_received()

    def on_train_epoch_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Count the epochs before this one as complete."""
        self.epochs = trainer.current_epoch

    def on_train_end(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Interrupt at once again: no more steps follow."""
        self.epochs = trainer.current_epoch
        self._stepping = False
        if self.received:
            raise KeyboardInterrupt

    def _raise_if_received(self) -> None:
        if self.received:
            raise SIGTERMException


@contextmanager
def stoppable(output: Path, world: World) -> Iterator[StopOnSignal]:
    """Turn SIGTERM and Ctrl-C into a :class:`StoppedError` that says what is saved.

    Args:
        output: the run's folder.
        world: the processes that train together. Only the first raises; the others exit.

    Yields:
        The callback to train with.

    Raises:
        StoppedError: a signal ended the body.
    """
    stop = StopOnSignal(world)
    before = (
        {number: signal.signal(number, stop.receive) for number in _SIGNALS}
        if _in_main_thread()
        else {}
    )
    try:
        yield stop
    except (KeyboardInterrupt, SystemExit, TrainingError) as end:
        if world.size > 1:
            # torchrun ends the other processes when one has ended. Ignore that until the error is
            # printed.
            before = dict.fromkeys(before, signal.SIG_IGN)
        number = stop.received
        # Lightning exits on a KeyboardInterrupt.
        if isinstance(end, KeyboardInterrupt) or isinstance(end.__context__, KeyboardInterrupt):
            number = number or signal.SIGINT
        # A signal to the whole process group also ends the processes that decode images, so the
        # error may be about those.
        if not number or isinstance(end, LostProcessError):
            raise
        if not world.is_first:
            sys.exit(128 + number)
        raise _stopped(output, stop.epochs, number) from end
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stopped(output: Path, epochs: int | None, number: int) -> StoppedError:
    problem = f"Training was stopped by {_SIGNALS[signal.Signals(number)]}."
    if not (output / CONFIG_FILE).is_file():
        return StoppedError(
            f"{problem} It had not started yet.",
            "To train, start again.",
            number=number,
            resumable=False,
        )
    return StoppedError(
        f"{problem} {describe_state(output, epochs)}", "To go on, resume the run.", number=number
    )


def _in_main_thread() -> bool:
    # Python allows signal handlers there only.
    return threading.current_thread() is threading.main_thread()
