"""The exporter: from a checkpoint to a verified version in a Triton model repository.

>>> from delugeserve_export import export, plan_export
>>> plan = plan_export("delugenet38", backend="onnxruntime")  # doctest: +SKIP
>>> [stage.value for stage in plan.stages]  # doctest: +SKIP
['load', 'fold', 'forms', 'graph', 'build', 'reference', 'verify', 'time', 'publish']
>>> outcome = export(plan)  # doctest: +SKIP
>>> outcome.folder if outcome.published else outcome.problem  # doctest: +SKIP
PosixPath('model_repository/delugenet38/1')

:func:`plan_export` checks every option and does no work; :func:`export` does the work. An artefact
that fails a check is not an error but a rejected outcome, whose manifest says what was found.

The names in ``__all__`` are the public API; docs/api.md has a line on each. A name loads its
module, with PyTorch and ONNX, when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from delugeserve_export.int8 import Int8Options
    from delugeserve_export.pipeline import ExportOutcome, export
    from delugeserve_export.plan import ExportPlan, Stage, plan_export

__all__ = [
    "ExportOutcome",
    "ExportPlan",
    "Int8Options",
    "Stage",
    "export",
    "plan_export",
]

_HOMES = {
    "ExportOutcome": "delugeserve_export.pipeline",
    "ExportPlan": "delugeserve_export.plan",
    "Int8Options": "delugeserve_export.int8",
    "Stage": "delugeserve_export.plan",
    "export": "delugeserve_export.pipeline",
    "plan_export": "delugeserve_export.plan",
}


if not TYPE_CHECKING:  # a type checker would take any name for an attribute

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
