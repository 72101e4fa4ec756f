"""TensorRT plans: whether the runtime and the GPU here are those that a plan was built for."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any

from delugeserve import hardware
from delugeserve.doctor.findings import Finding, Status
from delugeserve.errors import ServerError, UsageError
from delugeserve.inspection.plans import PlanFile, read_plan
from delugeserve.inspection.versions import Version

_PACKAGES = {"TensorRT": "tensorrt", "TensorRT-RTX": "tensorrt-rtx"}


def examine_plan(version: Version, details: Mapping[str, Any], again: str) -> Iterator[Finding]:
    """Compare a version's plans, if it has any, with what is here.

    Args:
        version: the version.
        details: what its builder said of the plan: ``version_compatible``, ``compute_capabilities``
            and ``minimum_compute_capability``, each of which may be absent.
        again: the sentence that says how to export it again.
    """
    for file in version.files:
        if file.state == "missing" or not file.name.endswith(".plan"):
            continue
        try:
            plan = read_plan(version.folder / file.name)
        except UsageError as error:
            yield _finding(version, "problem", error.problem, error.remedy)
            continue
        yield from _examine_runtime(version, plan, details, again)
        yield from _examine_gpu(version, plan, details, again)


def _examine_runtime(
    version: Version, plan: PlanFile, details: Mapping[str, Any], again: str
) -> Iterator[Finding]:
    package = _PACKAGES[plan.builder]
    try:
        installed = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        yield _finding(
            version,
            "absent",
            f"its plan is for {plan.builder} {plan.version}, which is not installed here",
            f"Serve it where it is, or install it with: pip install 'delugeserve[{package}]'",
        )
        return
    # The fourth number is a build of the same release.
    if installed.split(".")[:3] == plan.version.split(".")[:3]:
        return
    if details.get("version_compatible") and _numbers(installed) > _numbers(plan.version):
        return
    yield _finding(
        version,
        "problem",
        f"its plan is for {plan.builder} {plan.version}, and {installed} is here, which cannot "
        "load it",
        again,
    )


def _examine_gpu(
    version: Version, plan: PlanFile, details: Mapping[str, Any], again: str
) -> Iterator[Finding]:
    try:
        gpus = hardware.find_gpus()
    except ServerError:  # among the findings of the machine
        return
    if not gpus:
        yield _finding(version, "absent", f"a plan of {plan.builder} runs on an NVIDIA GPU alone")
        return
    built_for = [str(capability) for capability in details.get("compute_capabilities") or ()]
    least = details.get("minimum_compute_capability")
    here = [gpu.compute_capability for gpu in gpus]
    if (built_for and not set(built_for) & set(here)) or (
        least and all(_numbers(capability) < _numbers(str(least)) for capability in here)
    ):
        yield _finding(
            version,
            "problem",
            "its plan is for GPUs of compute capability "
            f"{' and '.join(built_for) or f'{least} and later'}, and {' and '.join(here)} is here",
            again,
        )


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")[:3] if part.isdecimal()]


def _finding(version: Version, status: Status, text: str, remedy: str | None = None) -> Finding:
    return Finding("repository", version.model, status, text, remedy)
