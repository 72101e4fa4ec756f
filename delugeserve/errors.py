"""The errors a user can meet, as one tree.

::

    DelugeServeError            the base: what is wrong, and what to do about it
    ├── UsageError              exit 2: the user can mend it
    │   ├── UnknownNameError    a name no registry knows; suggests the nearest
    │   ├── MissingExtraError   an optional dependency is not installed
    │   ├── DatasetError        images or labels cannot be read
    │   │   └── UnreadableImageError  one image cannot be decoded
    │   ├── CheckpointError     a checkpoint is missing, damaged or of another model
    │   ├── RepositoryError     the model repository cannot be read or written
    │   │   └── UnwrittenError  what was found cannot be written there; carries the manifest
    │   ├── PlanError           a compiled plan is for another runtime or another GPU
    │   ├── MissingDeviceError  there is no GPU
    │   └── PortError           a port is taken
    └── Failure                 exit 1: the work was understood and did not succeed
        ├── TrainingError       training cannot go on
        │   └── StoppedError    SIGTERM has ended it; exit 143
        ├── EvaluationError     a classifier's answers cannot be judged
        ├── BuildError          a runtime cannot build its artefact
        ├── ParityError         an exported artefact does not compute what the network computes
        │   └── RejectedError   it did not pass the gate; carries its manifest
        └── ServerError         the inference server did not start, or died
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class DelugeServeError(Exception):
    """What is wrong in one sentence, and in another what to do about it.

    Args:
        problem: one sentence, with its full stop.
        remedy: one sentence that says what to do, likewise.
    """

    exit_code = 1

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem} {self.remedy}"


class UsageError(DelugeServeError):
    """The user asked for something that cannot be; exit status 2."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that no registry knows.

    Args:
        kind: what the name should have named, such as ``"model"``.
        name: what was given.
        known: the names that exist.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.55)
        super().__init__(
            f"There is no {kind} '{name}'.",
            f"Did you mean '{nearest[0]}'?" if nearest else f"Choose one of: {', '.join(known)}.",
        )


class MissingExtraError(UsageError):
    """An optional dependency is not installed."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"This needs '{module}', which is not installed.",
            f"Install it with: pip install 'delugeserve[{extra}]'",
        )


class DatasetError(UsageError):
    """Images or labels cannot be read."""


class UnreadableImageError(DatasetError):
    """One image cannot be decoded."""


class CheckpointError(UsageError):
    """A checkpoint is missing, damaged, or belongs to another model."""


class RepositoryError(UsageError):
    """The model repository cannot be read or written."""


class UnwrittenError(RepositoryError):
    """What was found of an artefact cannot be written into its manifest.

    Args:
        problem: one sentence.
        remedy: one sentence.
        manifest: what would have been written, a :class:`delugeserve_export.manifest.Manifest`.
    """

    def __init__(self, problem: str, remedy: str, manifest: Any) -> None:
        super().__init__(problem, remedy)
        self.manifest = manifest


class PlanError(UsageError):
    """A compiled plan is for another runtime or another GPU than there is."""


class MissingDeviceError(UsageError):
    """There is no GPU."""


class PortError(UsageError):
    """A port is taken."""


class Failure(DelugeServeError):
    """The request was sound, and the work failed; exit status 1."""


class TrainingError(Failure):
    """Training cannot go on."""


class StoppedError(TrainingError):
    """SIGTERM has ended training; the exit status is the one that shells give for that."""

    exit_code = 143


class EvaluationError(Failure):
    """A classifier's answers cannot be judged."""


class BuildError(Failure):
    """A runtime cannot build its artefact."""


class ParityError(Failure):
    """An exported artefact does not compute what the network computes."""


class RejectedError(ParityError):
    """An exported artefact did not pass the gate.

    Args:
        problem: one sentence.
        remedy: one sentence.
        manifest: what was found, a :class:`delugeserve_export.manifest.Manifest`.
    """

    def __init__(self, problem: str, remedy: str, manifest: Any) -> None:
        super().__init__(problem, remedy)
        self.manifest = manifest


class ServerError(Failure):
    """The inference server did not start, or died."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: the module's full name.
        extra: the extra of this project that installs it.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or module, extra) from error


def reason_of(error: Exception) -> str:
    """What somebody else's error says, in its last line, or else its name."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


@contextmanager
def memory_shortage_named(remedy: str) -> Iterator[None]:
    """Say in a sentence that the memory of a GPU or of the machine is too small.

    Args:
        remedy: one sentence.

    Raises:
        Failure: it is.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # PyTorch has an error of its own for a GPU's memory, and none for the machine's.
        text = str(error)
        named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        if not named and "can't allocate memory" not in text:
            raise
        wanted = re.search(r"tried to allocate [\d.]+ \w+", text, re.IGNORECASE)
        more = f": {wanted[0].lower()}" if wanted else ""
        raise Failure(f"There is not enough memory{more}.", remedy) from error
