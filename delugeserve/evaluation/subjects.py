"""Open what a reference refers to as a classifier of uint8 images that returns logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from delugeserve.artifacts.checkpoints import read_header, shipped_weights
from delugeserve.artifacts.graphs import read_graph, read_network
from delugeserve.artifacts.interface import INPUT, LOGITS, PROBABILITIES
from delugeserve.artifacts.references import Reference
from delugeserve.errors import SubjectError, reason_of
from delugeserve.system.imports import require
from delugeserve.zoo import MODELS, TASKS, Task, find_model

if TYPE_CHECKING:
    from delugeserve.evaluation.evaluate import Classify
    from delugeserve_client import Classifier

_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_EXPORTED = "Give an ONNX file that 'delugeserve export --backend onnxruntime' wrote"


@dataclass(frozen=True)
class Subject:
    """A classifier of uint8 images.

    Attributes:
        title: its name in output.
        model: the model's name.
        task: its classes, and how an image becomes its input.
        classify: the classifier.
        batch_size: images per call.
        val_fraction: the part of its training images that was held out; None if that is not
            recorded.
    """

    title: str
    model: str
    task: Task
    classify: Classify
    batch_size: int = 250
    val_fraction: float | None = None


@contextmanager
def open_subject(reference: Reference, model: str | None = None) -> Iterator[Subject]:
    """Open what a reference refers to.

    Args:
        reference: one of the kinds in :data:`~delugeserve.artifacts.references.EVALUABLE`.
        model: name of the model that it must be; None accepts any. A server that serves several
            models needs it. For an ONNX file that does not describe its network, it is a
            registered model, whose task is then taken.

    Raises:
        UsageError: it cannot be opened, or is another model.
        ClientError: the server does not answer, or does not serve the model.
    """
    if reference.kind == "endpoint":
        with _open_endpoint(reference.value, model) as subject:
            yield subject
    elif reference.kind == "weights":
        yield _open_checkpoint(shipped_weights(find_model(reference.value)), model)
    else:
        opener = {
            "checkpoint": _open_checkpoint,
            "onnx": _open_onnx,
            "version": _open_version,
        }[reference.kind]
        yield opener(Path(reference.value), model)


def _open_checkpoint(path: Path, model: str | None) -> Subject:
    require("torch", "train")
    from delugeserve.networks.checkpoint import load_checkpoint
    from delugeserve.networks.classifier import network_classifier

    name = read_header(path).spec.name
    expected = None
    if model is not None and model != name:
        if model not in MODELS:
            _check_agreement(name, model, path)
        expected = find_model(model)
    loaded = load_checkpoint(path, expected)
    return Subject(
        f"{path.name} (PyTorch, fp32)",
        name,
        loaded.spec.task,
        network_classifier(loaded.build(), loaded.spec.task),
        val_fraction=_held_out(loaded.data),
    )


def _open_onnx(path: Path, model: str | None) -> Subject:
    from delugeserve.runtimes.onnxruntime import open_session

    require("onnxruntime", "export")
    try:
        session = open_session(path)
        found = _tensors(session.get_inputs()), _tensors(session.get_outputs())
        spec = read_network(session.get_modelmeta().custom_metadata_map)
    except Exception as error:  # the runtime's errors have no common base class
        reason = reason_of(error).rpartition("failed:")[2].strip(" .")
        raise SubjectError(
            f"ONNX Runtime cannot load {path}: {reason}.", f"{_EXPORTED}.", str(path)
        ) from error
    if spec is not None:
        _check_agreement(spec.name, model, path)
    elif model is not None:
        spec = find_model(model)
    else:
        raise SubjectError(
            f"{path} does not describe its network. Its input is {_listed(found[0])}, "
            f"its output {_listed(found[1])}.",
            f"{_EXPORTED}, or name a registered model with the same classes with --model.",
            str(path),
            found=found,
        )
    size, logits = spec.task.image_size, f"float [N, {spec.task.num_classes}]"
    expected = (
        {INPUT: f"uint8 [N, {size}, {size}, 3]"},
        {LOGITS: logits, PROBABILITIES: logits},
    )
    if found != expected:
        raise SubjectError(
            f"The input of {path} is {_listed(found[0])} and its output {_listed(found[1])}; "
            f"'{spec.name}' has input {_listed(expected[0])} and output {_listed(expected[1])}.",
            f"{_EXPORTED}.",
            str(path),
            expected=expected,
            found=found,
        )
    return Subject(
        f"{path.name} (ONNX Runtime, {_stored_precision(path)})",
        spec.name,
        spec.task,
        lambda images: session.run([LOGITS], {INPUT: images})[0],
    )


def _stored_precision(path: Path) -> str:
    """Return the type that most weights of an ONNX file are stored in."""
    dtype = next(iter(read_graph(path).weights), "no weights")
    return _PRECISIONS.get(dtype, dtype)


def _tensors(tensors: list[Any]) -> dict[str, str]:
    """Return type and shape of a graph's inputs or outputs by name; free dimensions are N."""
    return {
        tensor.name: tensor.type.removeprefix("tensor(").removesuffix(")")
        + f" [{', '.join(str(n) if isinstance(n, int) else 'N' for n in tensor.shape)}]"
        for tensor in tensors
    }


def _listed(tensors: Mapping[str, str]) -> str:
    return " and ".join(f"'{name}' {tensor}" for name, tensor in tensors.items())


def _open_version(folder: Path, model: str | None) -> Subject:
    from delugeserve.runtimes import BACKENDS
    from delugeserve.verification.verify import load_version

    manifest, infer = load_version(folder)
    _check_agreement(manifest.model, model, folder)
    runtime = BACKENDS[manifest.backend].title
    title = f"{manifest.model}/{folder.resolve().name} ({runtime}, {manifest.precision})"
    return Subject(
        title,
        manifest.model,
        manifest.network.task,
        lambda images: infer(images)[0],
        batch_size=min(Subject.batch_size, manifest.max_batch_size),
        val_fraction=_held_out(manifest.checkpoint.data),
    )


def _held_out(data: Mapping[str, Any]) -> float | None:
    """Return the part of the training images that a run held out; None if it held out none."""
    fraction = data.get("val_fraction")
    return float(fraction) if isinstance(fraction, (int, float)) and 0 < fraction < 1 else None


@contextmanager
def _open_endpoint(url: str, model: str | None) -> Iterator[Subject]:
    from delugeserve.evaluation.evaluate import as_logits
    from delugeserve_client import Classifier

    with Classifier(url, model) as classifier:
        classify = as_logits(classifier.infer)
        if LOGITS in classifier.model.outputs:
            classify = partial(classifier.infer, output=LOGITS)
        name = classifier.model.name
        yield Subject(f"{name} at {url}", name, _served_task(classifier, url), classify)


def _served_task(classifier: Classifier, url: str) -> Task:
    """Return the task of a served model, from its configuration and its labels."""
    served = classifier.model
    preprocessing = served.preprocessing
    class_names = _served_labels(classifier)
    if preprocessing.height != preprocessing.width:
        raise SubjectError(
            f"'{served.name}' at {url} takes images of {preprocessing.height} x "
            f"{preprocessing.width} pixels, which are not square.",
            "Evaluate a model that delugeserve exported.",
            url,
        )
    # ImageNet's validation split is its test split, and its class folders are numbers.
    known = next((task for task in TASKS.values() if task.class_names == class_names), None)
    return Task(
        known.name if known else served.name,
        known.title if known else served.name,
        class_names,
        preprocessing.height,
        preprocessing.resize_size,
        # The server normalises, so these are never used.
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )


def _served_labels(classifier: Classifier) -> tuple[str, ...]:
    """Return the class names that a server attaches to its predictions.

    A class without a label is called ``class 3``, as the client calls it.
    """
    import numpy as np

    served = classifier.model
    black = np.zeros(served.image_shape, np.uint8)
    (found,) = classifier.classify([black], top_k=served.num_classes)
    predictions = sorted(found.predictions, key=lambda one: one.index)
    return tuple(one.label for one in predictions)


def _check_agreement(name: str, wanted: str | None, path: Path) -> None:
    """Check that an artefact names the model that is wanted, if any is."""
    if wanted is not None and wanted != name:
        raise SubjectError(
            f"{path} holds '{name}', not '{wanted}'.",
            f"Use --model {name}, or give another path.",
            str(path),
            expected=wanted,
            found=name,
        )
