"""DelugeNet image classifiers, from training to a production endpoint.

>>> import delugeserve
>>> spec = delugeserve.find_model("delugenet38")
>>> spec.architecture.depth, spec.task.title
(38, 'CIFAR-10')

>>> checkpoint = delugeserve.load_checkpoint(spec.weights)  # doctest: +SKIP
>>> images = delugeserve.load_images("cifar10", "test", spec.task)  # doctest: +SKIP
>>> classify = delugeserve.network_classifier(checkpoint.build(), spec.task)  # doctest: +SKIP
>>> delugeserve.evaluate(classify, images).top1_error  # doctest: +SKIP
10.34

The names in ``__all__`` are the public API; docs/api.md has a line on each. Importing the package
is cheap: a name loads its module, and what that needs, when it is first used. The exporter is
:mod:`delugeserve_export`, the client :mod:`delugeserve_client`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from delugeserve._version import __version__

if TYPE_CHECKING:
    from delugeserve.artifacts.configuring import configure
    from delugeserve.artifacts.manifest import Manifest, read_manifest
    from delugeserve.artifacts.promotion import Promotion, promote, rollback, set_canary
    from delugeserve.artifacts.references import Reference, recognise
    from delugeserve.artifacts.serving_config import ServingConfig
    from delugeserve.artifacts.versions import StoredVersion, list_versions
    from delugeserve.data.catalogue import Catalogue, open_source
    from delugeserve.data.datasets import LabelledImages, load_images
    from delugeserve.doctor import Finding, diagnose
    from delugeserve.errors import (
        BuildError,
        BusyFolderError,
        BusyOutputError,
        CheckpointError,
        ClassNameError,
        DatasetError,
        DelugeServeError,
        EvaluationError,
        Failure,
        InvalidReferenceError,
        MissingDeviceError,
        MissingExtraError,
        ModelNameError,
        OtherClassesError,
        OtherInputError,
        OutputExistsError,
        ParityError,
        PlanError,
        PortError,
        RepositoryError,
        ResumeError,
        ServerError,
        StoppedError,
        SubjectError,
        TrainingError,
        UnfinishedError,
        UnknownNameError,
        UnreadableImageError,
        UsageError,
    )
    from delugeserve.evaluation.evaluate import Evaluation, Report, evaluate, evaluate_fully
    from delugeserve.evaluation.subjects import Subject, open_subject
    from delugeserve.networks.build import build_network
    from delugeserve.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from delugeserve.networks.classifier import network_classifier
    from delugeserve.networks.delugenet import DelugeNet
    from delugeserve.networks.inference import FoldedDelugeNet, fold
    from delugeserve.runtimes import BACKENDS, choose_backend, find_backend
    from delugeserve.runtimes.base import Backend
    from delugeserve.serving.front.security import Jwt, Security
    from delugeserve.serving.front.settings import Limits
    from delugeserve.serving.supervisor import serve
    from delugeserve.system.progress import NO_PROGRESS, Progress
    from delugeserve.training.config import RunConfig
    from delugeserve.training.recipes import Recipe, find_recipe
    from delugeserve.training.run import train
    from delugeserve.verification.verify import verify_version
    from delugeserve.zoo import (
        ARCHITECTURES,
        MODELS,
        TASKS,
        Architecture,
        ModelSpec,
        Task,
        find_architecture,
        find_model,
    )

__all__ = [
    "ARCHITECTURES",
    "BACKENDS",
    "MODELS",
    "NO_PROGRESS",
    "TASKS",
    "Architecture",
    "Backend",
    "BuildError",
    "BusyFolderError",
    "BusyOutputError",
    "Catalogue",
    "Checkpoint",
    "CheckpointError",
    "ClassNameError",
    "DatasetError",
    "DelugeNet",
    "DelugeServeError",
    "Evaluation",
    "EvaluationError",
    "Failure",
    "Finding",
    "FoldedDelugeNet",
    "InvalidReferenceError",
    "Jwt",
    "LabelledImages",
    "Limits",
    "Manifest",
    "MissingDeviceError",
    "MissingExtraError",
    "ModelNameError",
    "ModelSpec",
    "OtherClassesError",
    "OtherInputError",
    "OutputExistsError",
    "ParityError",
    "PlanError",
    "PortError",
    "Progress",
    "Promotion",
    "Recipe",
    "Reference",
    "Report",
    "RepositoryError",
    "ResumeError",
    "RunConfig",
    "Security",
    "ServerError",
    "ServingConfig",
    "StoppedError",
    "StoredVersion",
    "Subject",
    "SubjectError",
    "Task",
    "TrainingError",
    "UnfinishedError",
    "UnknownNameError",
    "UnreadableImageError",
    "UsageError",
    "__version__",
    "build_network",
    "choose_backend",
    "configure",
    "diagnose",
    "evaluate",
    "evaluate_fully",
    "find_architecture",
    "find_backend",
    "find_model",
    "find_recipe",
    "fold",
    "list_versions",
    "load_checkpoint",
    "load_images",
    "network_classifier",
    "open_source",
    "open_subject",
    "promote",
    "read_manifest",
    "recognise",
    "rollback",
    "save_checkpoint",
    "serve",
    "set_canary",
    "train",
    "verify_version",
]

# The imports above, for the interpreter; a test compares both.
_HOMES = {
    "artifacts.configuring": "configure",
    "artifacts.manifest": "Manifest read_manifest",
    "artifacts.promotion": "Promotion promote rollback set_canary",
    "artifacts.references": "Reference recognise",
    "artifacts.serving_config": "ServingConfig",
    "artifacts.versions": "StoredVersion list_versions",
    "data.catalogue": "Catalogue open_source",
    "data.datasets": "LabelledImages load_images",
    "doctor": "Finding diagnose",
    "errors": (
        "BuildError BusyFolderError BusyOutputError CheckpointError ClassNameError"
        " DatasetError DelugeServeError EvaluationError Failure InvalidReferenceError"
        " MissingDeviceError MissingExtraError ModelNameError OtherClassesError"
        " OtherInputError OutputExistsError ParityError PlanError PortError RepositoryError"
        " ResumeError ServerError StoppedError SubjectError TrainingError UnfinishedError"
        " UnknownNameError UnreadableImageError UsageError"
    ),
    "evaluation.evaluate": "Evaluation Report evaluate evaluate_fully",
    "evaluation.subjects": "Subject open_subject",
    "networks.build": "build_network",
    "networks.checkpoint": "Checkpoint load_checkpoint save_checkpoint",
    "networks.classifier": "network_classifier",
    "networks.delugenet": "DelugeNet",
    "networks.inference": "FoldedDelugeNet fold",
    "runtimes": "BACKENDS choose_backend find_backend",
    "runtimes.base": "Backend",
    "serving.front.security": "Jwt Security",
    "serving.front.settings": "Limits",
    "serving.supervisor": "serve",
    "system.progress": "NO_PROGRESS Progress",
    "training.config": "RunConfig",
    "training.recipes": "Recipe find_recipe",
    "training.run": "train",
    "verification.verify": "verify_version",
    "zoo": ("ARCHITECTURES MODELS TASKS Architecture ModelSpec Task find_architecture find_model"),
}

if not TYPE_CHECKING:  # with a __getattr__, type checkers would accept every name
    _MODULE_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
