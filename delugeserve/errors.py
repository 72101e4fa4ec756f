"""The errors a user can meet, as one tree.

::

    DelugeServeError            the base: what is wrong and what to do about it
    ├── UsageError              exit 2: the user can fix it
    │   ├── UnknownNameError    a name is not in a registry; suggests the nearest
    │   ├── MissingExtraError   an optional dependency is not installed
    │   ├── DatasetError        images or labels cannot be read
    │   │   ├── ClassNameError        a class name is empty, has a line break or is not UTF-8
    │   │   └── UnreadableImageError  an image cannot be decoded
    │   ├── InvalidReferenceError  a path, name or address is not what a command takes
    │   ├── SubjectError        an artefact or a server does not hold the model that it should
    │   ├── CheckpointError     a checkpoint is missing, damaged or of another model
    │   ├── ModelNameError      a name cannot be that of a model in a repository
    │   ├── RepositoryError     the model repository cannot be read or written
    │   │   └── OtherClassesError  a model of that name has other classes
    │   ├── BusyFolderError     another process is training into a folder
    │   ├── ResumeError         a run to resume was started with other settings
    │   ├── PlanError           a compiled plan is for another runtime or another GPU
    │   ├── MissingDeviceError  there is no GPU
    │   └── PortError           a port is taken
    └── Failure                 exit 1: the request was valid, but the work failed
        ├── TrainingError       training cannot continue
        │   ├── StoppedError    training was stopped by a signal
        │   └── LostProcessError  another process of the run ended
        ├── EvaluationError     a classifier's outputs cannot be evaluated
        ├── BuildError          a runtime cannot build its artefact
        ├── ParityError         an exported artefact does not compute what the network computes
        └── ServerError         the inference server did not start, or died

Facts that a program may want are attributes; tests assert on the class and on those.
"""

from __future__ import annotations

import difflib
import os
import shlex
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class DelugeServeError(Exception):
    """Base class of all errors: one sentence says what is wrong, another what to do about it.

    Args:
        problem: what is wrong, with its full stop.
        remedy: what to do about it, with its full stop.

    Attributes:
        exit_code: exit status of the command line.
    """

    exit_code: int = 1

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem} {self.remedy}"


class UsageError(DelugeServeError):
    """The request cannot be met, and the user can fix it; exit status 2."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name is not in a registry.

    Args:
        kind: what the name should refer to, such as ``"model"``.
        name: the name given.
        known: the names that exist.

    Attributes:
        nearest: the known name most like it, or None.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        self.nearest = nearest_name(name, self.known)
        super().__init__(
            f"There is no {kind} '{name}'.",
            f"Did you mean '{self.nearest}'?"
            if self.nearest
            else f"Choose one of: {', '.join(self.known)}.",
        )


class MissingExtraError(UsageError):
    """An optional dependency is not installed.

    Args:
        module: the module that cannot be imported.
        extra: the extra of this project that installs it.
    """

    def __init__(self, module: str, extra: str) -> None:
        self.module, self.extra = module, extra
        super().__init__(
            f"This needs '{module}', which is not installed.",
            f"Install it with: pip install 'delugeserve[{extra}]'",
        )


class DatasetError(UsageError):
    """Images or labels cannot be read.

    Args:
        problem: what is wrong, with its full stop.
        remedy: what to do about it, with its full stop.
        path: the file or folder that is wrong, if there is one.
        name: what is wrong in it: a split, class, column, file or image.
        expected: what the data set should have there.
        found: what it has.
        extra: classes that it should not have.
        missing: classes that it should have.
    """

    def __init__(
        self,
        problem: str,
        remedy: str,
        *,
        path: str | os.PathLike[str] | None = None,
        name: str | None = None,
        expected: object = None,
        found: object = None,
        extra: Iterable[str] = (),
        missing: Iterable[str] = (),
    ) -> None:
        super().__init__(problem, remedy)
        self.path = None if path is None else os.fspath(path)
        self.name, self.expected, self.found = name, expected, found
        self.extra, self.missing = tuple(extra), tuple(missing)


class ClassNameError(DatasetError):
    """A class name cannot be written to a label file, which has one UTF-8 name per line.

    Args:
        name: the class name.
        source: the path or network that has it.

    Attributes:
        reason: what is wrong with the name.
    """

    def __init__(self, name: str, source: str | os.PathLike[str]) -> None:
        self.reason = "is empty" if not name else "contains a line break"
        try:
            name.encode()
        except UnicodeEncodeError:
            self.reason = "is not valid UTF-8"
        super().__init__(
            f"{source} has the class name {name!r}, which {self.reason}.",
            "Rename the class in the data set, then train on it.",
            path=source,
            name=name,
        )


class UnreadableImageError(DatasetError):
    """An image cannot be decoded; its name is ``name``."""


class InvalidReferenceError(UsageError):
    """A path, name or address is not what a command takes.

    Args:
        problem: what is wrong, with its full stop.
        remedy: what to do about it, with its full stop.
        text: the path, name or address.
        found: what it refers to, a :data:`delugeserve.artifacts.references.Kind`; None if that is
            not known.
        nearest: the existing path or name most like it, or None.
    """

    def __init__(
        self,
        problem: str,
        remedy: str,
        text: str,
        *,
        found: str | None = None,
        nearest: str | None = None,
    ) -> None:
        super().__init__(problem, remedy)
        self.text, self.found, self.nearest = text, found, nearest


class SubjectError(UsageError):
    """An artefact or a server cannot be used as a classifier of the model that it should hold.

    Args:
        problem: what is wrong, with its full stop.
        remedy: what to do about it, with its full stop.
        subject: its path or address.
        expected: what it should be, such as a model's name, or inputs and outputs; None if that is
            not known.
        found: what it is instead.
    """

    def __init__(
        self,
        problem: str,
        remedy: str,
        subject: str,
        *,
        expected: object = None,
        found: object = None,
    ) -> None:
        super().__init__(problem, remedy)
        self.subject, self.expected, self.found = subject, expected, found


class CheckpointError(UsageError):
    """A checkpoint is missing, damaged or of another model.

    Args:
        problem: what is wrong, with its full stop.
        remedy: what to do about it, with its full stop.
        path: the file; None if there is none.
        expected: what it should hold, such as a model's name or a tensor's type.
        found: what it holds instead.
    """

    def __init__(
        self,
        problem: str,
        remedy: str,
        path: Path | None = None,
        *,
        expected: object = None,
        found: object = None,
    ) -> None:
        super().__init__(problem, remedy)
        self.path, self.expected, self.found = path, expected, found


class RepositoryError(UsageError):
    """The model repository cannot be read or written.

    Args:
        problem: what is wrong, with its full stop.
        remedy: what to do about it, with its full stop.
        path: the file or folder; None if that is not known.
    """

    def __init__(self, problem: str, remedy: str, path: Path | None = None) -> None:
        super().__init__(problem, remedy)
        self.path = path


class BusyFolderError(UsageError):
    """Another process is training into a folder.

    Args:
        path: the folder.

    Attributes:
        path: see above.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"Another process is training into {path}.",
            "Wait until it has finished, or choose another --output.",
        )


class OtherClassesError(RepositoryError):
    """An export would replace a model by one with other classes.

    Args:
        model: the model that is served, with its repository.
        version: number of the version that is served.
        counts: number of its classes, and of the new ones; None if its classes are not known.
        added: classes that only the new version has.
        removed: classes that only the served version has.
        reordered: both have the same classes, in another order.
        remedy: what to do about it; None for that of an export.

    Attributes:
        version: see above.
        added: see above.
        removed: see above.
        reordered: see above.
    """

    def __init__(
        self,
        model: str,
        version: int,
        counts: tuple[int, int] | None,
        *,
        added: Iterable[str] = (),
        removed: Iterable[str] = (),
        reordered: bool = False,
        remedy: str | None = None,
    ) -> None:
        self.version, self.reordered = version, reordered
        self.added, self.removed = tuple(added), tuple(removed)
        if counts is None:
            difference = "has classes that are not known, because it has no label file"
        elif reordered:
            difference = "has the same classes in another order"
        else:
            old, new = counts
            details = [f"removed: {list_some(self.removed)}"] * bool(self.removed)
            details += [f"added: {list_some(self.added)}"] * bool(self.added)
            difference = f"has other classes ({old}, now {new}; {'; '.join(details)})"
        super().__init__(
            f"The model {model}, version {version}, {difference}.",
            remedy
            or "Use --name to publish under another name, or --replace-classes to publish over it.",
        )


class ModelNameError(UsageError):
    """A name cannot be that of a model in a repository.

    Args:
        name: the name.
        nearest: a valid name that is like it.
    """

    def __init__(self, name: str, nearest: str) -> None:
        self.name, self.nearest = name, nearest
        super().__init__(
            f"'{name}' cannot be the name of a model in a repository: use 1 to 128 ASCII letters, "
            "digits, '_', '.' and '-', not starting with '.' or '-'.",
            f"Use --name {nearest}.",
        )


class ResumeError(UsageError):
    """A training run was started with other settings than are given now.

    Args:
        path: the run's folder.
        changed: the settings that differ, by name: their values then and now; None where a
            setting was not given.

    Attributes:
        path: see above.
        changed: see above.
    """

    def __init__(self, path: Path, changed: Mapping[str, tuple[Any, Any]]) -> None:
        self.path, self.changed = path, dict(changed)
        differences = "; ".join(
            f"{_option(name)} was {_setting(old)}, now {_setting(new)}"
            for name, (old, new) in self.changed.items()
        )
        # What was off or not given is left out, everything else is repeated.
        leave = [_option(name) for name, (old, _) in self.changed.items() if not _is_given(old)]
        use = " ".join(
            _option(name) if old is True else f"{_option(name)} {shlex.quote(_setting(old))}"
            for name, (old, _) in self.changed.items()
            if _is_given(old)
        )
        steps = [f"use {use}"] * bool(use) + [f"leave out {', '.join(leave)}"] * bool(leave)
        remedy = f"{' and '.join(steps)}, or choose another --output."
        super().__init__(f"Cannot resume {path}: {differences}.", remedy[:1].upper() + remedy[1:])


class PlanError(UsageError):
    """A compiled plan is for another runtime or another GPU than there is.

    Args:
        problem: what is wrong, with its full stop.
        remedy: what to do about it, with its full stop.
        required: the compute capabilities or the version that the plan is for.
        found: those of this machine.
    """

    def __init__(self, problem: str, remedy: str, *, required: str = "", found: str = "") -> None:
        super().__init__(problem, remedy)
        self.required, self.found = required, found


class MissingDeviceError(UsageError):
    """There is no GPU."""


class PortError(UsageError):
    """A server cannot listen on a port.

    Args:
        problem: one sentence.
        port: the port.
        endpoint: what it was for: ``grpc``, ``http`` or ``metrics``.
    """

    def __init__(self, problem: str, port: int, endpoint: str) -> None:
        self.port, self.endpoint = port, endpoint
        super().__init__(problem, f"Use another with --{endpoint}-port; 0 picks a free one.")


class Failure(DelugeServeError):
    """The request was valid, but the work failed; exit status 1."""


class TrainingError(Failure):
    """Training cannot continue.

    Args:
        problem: one sentence.
        remedy: one sentence; for a run that can go on, it ends with "resume the run.".
        resumable: whether the run's folder holds a run that can go on.

    Attributes:
        resumable: see above.
    """

    def __init__(self, problem: str, remedy: str, *, resumable: bool = False) -> None:
        super().__init__(problem, remedy)
        self.resumable = resumable


class StoppedError(TrainingError):
    """Training was stopped by a signal; exit status 128 plus the signal's number.

    Args:
        problem: one sentence.
        remedy: one sentence.
        number: the signal's number.
        resumable: whether the run's folder holds a run that can go on.

    Attributes:
        number: see above.
    """

    def __init__(
        self, problem: str, remedy: str, *, number: int = signal.SIGTERM, resumable: bool = True
    ) -> None:
        super().__init__(problem, remedy, resumable=resumable)
        self.number = number
        self.exit_code = 128 + number


class EvaluationError(Failure):
    """A classifier's outputs cannot be evaluated."""


class BuildError(Failure):
    """A runtime cannot build its artefact.

    Args:
        problem: what is wrong, with its full stop.
        remedy: what to do about it, with its full stop.
        node: name of the graph's node that it refuses; None if it does not name one.
    """

    def __init__(self, problem: str, remedy: str, *, node: str | None = None) -> None:
        super().__init__(problem, remedy)
        self.node = node


class ParityError(Failure):
    """An exported artefact does not compute what the network computes."""


class ServerError(Failure):
    """The inference server did not start, or died.

    Args:
        problem: one sentence.
        remedy: one sentence.
        log_tail: the last lines of the server's log.
        reasons: for each model that failed, why.
    """

    def __init__(
        self,
        problem: str,
        remedy: str,
        *,
        log_tail: str = "",
        reasons: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(problem, remedy)
        self.log_tail, self.reasons = log_tail, dict(reasons or {})


def nearest_name(name: str, known: Iterable[str], cutoff: float = 0.55) -> str | None:
    """Return the known name most like ``name``, or None if none is close."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def nearest_path(path: Path, more: Iterable[str] = ()) -> str | None:
    """Return the file or folder beside ``path`` with a name most like its own.

    Args:
        path: a path that does not exist.
        more: other names that may have been meant.
    """
    try:
        beside = [str(path.parent / child.name) for child in path.parent.iterdir()]
    except OSError:
        beside = []
    return nearest_name(str(path), [*beside, *more], cutoff=0.75)


def reason_of(error: Exception) -> str:
    """Return the last line of a third-party error's message, or its class name."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def list_some(names: tuple[str, ...], most: int = 5) -> str:
    """Return the first names, quoted, and how many more there are."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _is_given(value: Any) -> bool:
    return value is not None and value is not False


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _setting(value: Any) -> str:
    if value is None or value is False:
        return "not given"
    if value is True:
        return "given"
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
