"""Runtimes: how an ONNX graph becomes a file that a Triton backend runs.

Each module holds the record of one runtime, a :class:`~delugeserve.runtimes.base.Backend`, or of
two that share nearly everything. To add a runtime, add a module with its record. If the server's
own Triton has no backend of that name, also add ``serving/backends/<name>/model.py``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from delugeserve.errors import MissingExtraError, UnknownNameError
from delugeserve.runtimes.base import Backend, Preference

AUTO = "auto"


def _records() -> Iterator[Backend]:
    """Find the public records among the modules of this package."""
    for found in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{found.name}")
        for value in vars(module).values():
            if (
                isinstance(value, type)
                and issubclass(value, Backend)
                and value.__module__ == module.__name__
                and hasattr(value, "name")
            ):
                yield value()


BACKENDS: Mapping[str, Backend] = MappingProxyType({record.name: record for record in _records()})
"""All runtimes, by Triton's name of their backend."""


def find_backend(name: str) -> Backend:
    """Find a backend by Triton's name, or by the name with hyphens that ``--backend`` takes.

    Raises:
        UnknownNameError: there is no such backend.
    """
    backend = BACKENDS.get(name.replace("-", "_"))
    if backend is None:
        raise UnknownNameError(
            "backend", name, [*(known.flag for known in BACKENDS.values()), AUTO]
        )
    return backend


def choose_backend(name: str, precision: str = AUTO) -> tuple[Backend, str]:
    """Find a backend by name, or the best one installed for this machine.

    Args:
        name: a name that :func:`find_backend` takes, or ``auto``.
        precision: the precision to compute in; ``auto`` if that is not decided yet.

    Returns:
        The backend, and one sentence that gives the reason for the choice.

    Raises:
        UnknownNameError: there is no such backend.
        MissingExtraError: its runtime is not installed.
    """
    if name == AUTO:
        return _best_backend() if precision == AUTO else _best_backend_in(precision)
    backend = find_backend(name)
    if not backend.is_installed():
        raise MissingExtraError(backend.module, backend.extra)
    return backend, f"{backend.title}, as requested"


def _best_backend() -> tuple[Backend, str]:
    ranked = _ranked()
    installed = [(backend, why) for backend, why in ranked if backend.is_installed()]
    if not installed:
        default = BACKENDS["onnxruntime"]
        raise MissingExtraError(default.module, default.extra)
    best, preference = installed[0]
    reason = f"{best.title} in {best.best_precision()}: {preference.reason}"
    faster, advantage = ranked[0]
    if preference.rank < advantage.rank:
        reason += f"; {faster.title} in {faster.best_precision()} is faster here but not installed"
    return best, reason


def _best_backend_in(precision: str) -> tuple[Backend, str]:
    """Return the best backend that has the precision, or the best one of all if none has it."""
    best, reason = _best_backend()
    if precision == best.best_precision():
        return best, reason
    for backend, _ in _ranked():
        if precision in backend.precisions and backend.is_installed():
            return backend, f"{backend.title}, the best choice here that computes in {precision}"
    return best, reason


def _ranked() -> list[tuple[Backend, Preference]]:
    """The backends that can run on this machine, installed or not, the best first."""
    found = [
        (backend, preference)
        for backend in BACKENDS.values()
        if (preference := backend.preference()) is not None
    ]
    return sorted(found, key=lambda pair: -pair[1].rank)
