"""Errors about what lies on disk: checkpoints, versions, plans, repositories."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from delugeserve.errors.base import Failure, UsageError
from delugeserve.errors.text import list_some


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
