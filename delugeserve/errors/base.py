"""The root of the error tree, and the errors that belong to no one subject."""

from __future__ import annotations

from collections.abc import Iterable

from delugeserve.errors.text import nearest_name


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


class Failure(DelugeServeError):
    """The request was valid, but the work failed; exit status 1."""
