"""Whether a TensorRT plan can be loaded here, and where it can be if not.

A plan is good for one version of its runtime and for certain GPUs. What it is good for stands in
the manifest beside it, which is read before a server is asked to load it.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from delugeserve.artifacts.manifest import find_manifest
from delugeserve.artifacts.model_config import FILE_NAME as CONFIG
from delugeserve.artifacts.records import PlanDetails
from delugeserve.artifacts.remedies import export_command
from delugeserve.artifacts.repository import StoredModel
from delugeserve.errors import MissingDeviceError, PlanError
from delugeserve.system import hardware
from delugeserve.system.hardware import Gpu

#: Backends that load plans, by Triton's name, with the distributions that bring their runtime.
DISTRIBUTIONS: Mapping[str, Sequence[str]] = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx": ("tensorrt-rtx",),
}
_TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}

#: TensorRT in NVIDIA's images ``nvcr.io/nvidia/tritonserver:<release>-trtllm-python-py3``, from
#: https://github.com/triton-inference-server/server/blob/main/docs/introduction/compatibility.md
#: as of release 26.08. The images ``<release>-py3`` carry other versions, which stand in
#: https://docs.nvidia.com/deeplearning/frameworks/support-matrix/index.html
CONTAINERS: Mapping[str, str] = {
    "26.07": "10.14.1.48",
    "26.06": "10.14.1.48",
    "26.05": "10.14.1.48",
    "26.04": "10.14.1.48",
    "26.03": "10.14.1.48",
    "26.02": "10.13.3.9",
    "26.01": "10.13.3.9",
    "25.12": "10.13.3.9",
    "25.11": "10.13.3.9",
    "25.10": "10.11.0.33",
    "25.09": "10.11.0.33",
    "25.08": "10.11.0.33",
    "25.07": "10.10.0.31",
    "25.06": "10.10.0.31",
    "25.05": "10.9.0.34",
    "25.04": "10.9.0.34",
    "25.03": "10.9.0.34",
    "25.02": "10.8.0.43",
    "25.01": "10.8.0.43",
    "24.12": "10.7.0",
}
_SUPPORT_MATRIX = "https://docs.nvidia.com/deeplearning/frameworks/support-matrix/index.html"


def require_loadable(model: StoredModel, *, native: bool = False) -> None:
    """Raise if the version of a model that would be served is a plan that cannot be loaded here.

    What is not known is let pass, for the server to find out: a plan without a manifest of ours,
    and the version of a native backend that nothing tells of.

    Args:
        model: any model of a repository; those that are no plans pass.
        native: the server has a native backend of that name, with a TensorRT of its own.

    Raises:
        MissingDeviceError: it needs a GPU, and this machine has none.
        PlanError: it is for other GPUs, or not for all that the server would load it on, or for
            another version of the runtime, or lacks its weights.
    """
    if model.backend not in DISTRIBUTIONS:
        return
    title = _TITLES[model.backend]
    manifest = find_manifest(model.folder, model.version)
    # Called where it is said only: it may have to read the shipped weights.
    again = partial(export_command, model.folder, manifest, model.backend)
    gpus = hardware.usable_gpus()
    if not gpus:
        raise MissingDeviceError(
            f"Model '{model.name}' is a {title} plan, which runs on an NVIDIA GPU, and this "
            "machine has none.",
            "Serve it where there is one, or export for this machine: "
            f"{export_command(model.folder, manifest, 'onnxruntime')}",
        )
    plan = manifest.engine if manifest else None
    if plan is None:
        return
    _require_gpus(model, plan, gpus, again)
    if native and plan.options.get("strip_weights"):
        raise PlanError(
            f"Model '{model.name}' is a plan without its weights, which NVIDIA's own backend "
            "cannot put back.",
            f"Export it again without --strip-weights: {again()}",
        )
    here = _native_version() if native else installed_version(model.backend)
    if here and not _loads(here, plan):
        raise PlanError(
            f"Model '{model.name}' was built by {title} {plan.version}, and this server has "
            f"{title} {here}, which cannot load it.",
            f"{_who_can(model.backend, plan)}, or export it again on this machine: {again()}",
        )


def is_version_compatible(model: StoredModel) -> bool:
    """Whether the version of a model that would be served is a plan for later versions as well."""
    manifest = find_manifest(model.folder, model.version)
    plan = manifest.engine if manifest else None
    return model.backend in DISTRIBUTIONS and plan is not None and plan.version_compatible


def installed_version(backend: str) -> str | None:
    """Version of the runtime that our backend of that name would load; None if there is none."""
    for name in DISTRIBUTIONS[backend]:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def containers_with(version: str) -> list[str]:
    """The images of :data:`CONTAINERS` that have a version of TensorRT, the newest first."""
    return [
        f"nvcr.io/nvidia/tritonserver:{release}-trtllm-python-py3"
        for release, has in CONTAINERS.items()
        if _numbers(version)[: has.count(".") + 1] == _numbers(has)
    ]


def _require_gpus(
    model: StoredModel, plan: PlanDetails, gpus: Sequence[Gpu], again: Callable[[], str]
) -> None:
    """Raise unless a plan is for every GPU that a server would load it on."""
    exact, least = plan.compute_capabilities, plan.minimum_compute_capability
    # Triton starts instances on all that it sees, unless the configuration names some.
    loading = [gpu for place, gpu in enumerate(gpus) if not model.gpus or place in model.gpus]
    fitting = [gpu for gpu in gpus if gpu.is_among(exact, least)]
    others = [gpu for gpu in loading if gpu not in fitting]
    places = ", ".join(str(place) for place, gpu in enumerate(gpus) if gpu in fitting)
    is_for = (
        f"Model '{model.name}' is a {_TITLES[model.backend]} plan for GPUs of compute capability "
        f"{_wanted(plan)}"
    )
    if not fitting:
        raise PlanError(
            f"{is_for}, and this machine has {_listed(gpus)}.",
            f"Serve it on such a GPU, or export it again on this machine: {again()}",
        )
    if others:
        raise PlanError(
            f"{is_for}, and the server would load it on {_listed(others)}.",
            f"Write gpus: [ {places} ] in {model.folder / CONFIG}."
            if model.gpus
            else "Show the server only what fits: CUDA_VISIBLE_DEVICES="
            f"{','.join(str(gpu.index) for gpu in fitting)} delugeserve serve ...",
        )


def _wanted(plan: PlanDetails) -> str:
    exact, least = plan.compute_capabilities, plan.minimum_compute_capability
    return hardware.name_capabilities(exact, least)


def _loads(here: str, plan: PlanDetails) -> bool:
    """Whether a version loads a plan: only that which built it, or also later ones."""
    have, built = _numbers(here), _numbers(plan.version)
    return have == built or (plan.version_compatible and have > built)


def _who_can(backend: str, plan: PlanDetails) -> str:
    version = plan.version
    install = f"pip install '{DISTRIBUTIONS[backend][0]}=={version}'"
    if backend != "tensorrt":
        return f"Install the other: {install}"
    images = containers_with(version)
    where = f"{images[0]} has" if images else f"see {_SUPPORT_MATRIX} for an image that has"
    return f"Install the other ({install}; {where} {version})"


def _native_version() -> str | None:
    """What NVIDIA's containers say of their TensorRT, such as ``10.13.3.9+cuda13.0``."""
    return os.environ.get("TRT_VERSION", "").partition("+")[0] or None


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers at the start of a version: a suffix such as ``.post1`` says nothing here."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in match[0].split(".")) if match else ()


def _listed(gpus: Sequence[Gpu]) -> str:
    return ", ".join(f"{gpu.name} ({gpu.compute_capability})" for gpu in gpus)
