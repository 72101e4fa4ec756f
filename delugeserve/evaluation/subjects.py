"""Open what a reference refers to as a classifier of uint8 images that returns logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from delugeserve.artifacts.checkpoints import shipped_weights
from delugeserve.artifacts.graphs import read_graph
from delugeserve.artifacts.interface import INPUT, LOGITS, PROBABILITIES
from delugeserve.artifacts.references import Reference
from delugeserve.errors import SubjectError, reason_of
from delugeserve.system.imports import require
from delugeserve.zoo import ModelSpec, find_model

if TYPE_CHECKING:
    from delugeserve.evaluation.evaluate import Classify

_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_EXPORTED = "Give an ONNX file that 'delugeserve export --backend onnxruntime' wrote"


@dataclass(frozen=True)
class Subject:
    """A classifier of uint8 images.

    Attributes:
        title: its name in output.
        spec: the model.
        classify: the classifier.
        class_names: one name per logit; None if they are not recorded.
        batch_size: images per call.
    """

    title: str
    spec: ModelSpec
    classify: Classify
    class_names: tuple[str, ...] | None = None
    batch_size: int = 250


@contextmanager
def open_subject(reference: Reference, spec: ModelSpec | None = None) -> Iterator[Subject]:
    """Open what a reference refers to.

    Args:
        reference: one of the kinds in :data:`~delugeserve.artifacts.references.EVALUABLE`.
        spec: the model that it must be; None accepts any. A server that serves several models
            needs it, and so does an ONNX file that does not name its model.

    Raises:
        UsageError: it cannot be opened, or is another model.
        ClientError: the server does not answer, or does not serve the model.
    """
    if reference.kind == "endpoint":
        with _open_endpoint(reference.value, spec) as subject:
            yield subject
    elif reference.kind == "weights":
        yield _open_checkpoint(shipped_weights(find_model(reference.value)), spec)
    else:
        opener = {
            "checkpoint": _open_checkpoint,
            "onnx": _open_onnx,
            "version": _open_version,
        }[reference.kind]
        yield opener(Path(reference.value), spec)


def _open_checkpoint(path: Path, spec: ModelSpec | None) -> Subject:
    require("torch", "train")
    from delugeserve.networks.checkpoint import load_checkpoint
    from delugeserve.networks.classifier import network_classifier

    loaded = load_checkpoint(path, spec)
    return Subject(
        f"{path.name} (PyTorch, fp32)",
        loaded.spec,
        network_classifier(loaded.build(), loaded.spec.task),
        loaded.class_names,
    )


def _open_onnx(path: Path, spec: ModelSpec | None) -> Subject:
    from delugeserve.runtimes.onnxruntime import open_session

    require("onnxruntime", "export")
    try:
        session = open_session(path)
        found = _tensors(session.get_inputs()), _tensors(session.get_outputs())
        name = session.get_modelmeta().custom_metadata_map.get("model")
    except Exception as error:  # the runtime's errors have no common base class
        reason = reason_of(error).rpartition("failed:")[2].strip(" .")
        raise SubjectError(
            f"ONNX Runtime cannot load {path}: {reason}.", f"{_EXPORTED}.", str(path)
        ) from error
    if name is not None:
        _check_agreement(name, spec, path)
        spec = find_model(name)
    if spec is None:
        raise SubjectError(
            f"{path} does not name its model. Its input is {_listed(found[0])}, "
            f"its output {_listed(found[1])}.",
            f"{_EXPORTED}, or name the model with --model.",
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
        spec,
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


def _open_version(folder: Path, spec: ModelSpec | None) -> Subject:
    from delugeserve.artifacts import labels
    from delugeserve.runtimes import BACKENDS
    from delugeserve.verification.verify import load_version

    manifest, infer = load_version(folder)
    _check_agreement(manifest.model, spec, folder)
    runtime = BACKENDS[manifest.backend].title
    title = f"{manifest.model}/{folder.resolve().name} ({runtime}, {manifest.precision})"
    return Subject(
        title,
        manifest.network,
        lambda images: infer(images)[0],
        labels.read_labels(folder / labels.FILE_NAME),
        batch_size=min(Subject.batch_size, manifest.max_batch_size),
    )


@contextmanager
def _open_endpoint(url: str, spec: ModelSpec | None) -> Iterator[Subject]:
    from delugeserve.evaluation.evaluate import as_logits
    from delugeserve_client import Classifier

    with Classifier(url, spec.name if spec else None) as classifier:
        served = classifier.model
        spec = spec or find_model(served.name)
        size, classes = spec.task.image_size, spec.task.num_classes
        expected = (size, size, 3), classes
        found = served.image_shape, served.num_classes
        if found != expected:
            raise SubjectError(
                f"'{spec.name}' at {url} has {found[1]} classes and images of {list(found[0])}, "
                f"not {classes} classes and images of {list(expected[0])}.",
                "Use --model with another model, or give another address.",
                url,
                expected=expected,
                found=found,
            )
        classify = as_logits(classifier.infer)
        if LOGITS in served.outputs:
            classify = partial(classifier.infer, output=LOGITS)
        yield Subject(f"{spec.name} at {url}", spec, classify)


def _check_agreement(name: str, wanted: ModelSpec | None, path: Path) -> None:
    """Check that an artefact names the model that is wanted, if any is."""
    if wanted is not None and wanted.name != name:
        raise SubjectError(
            f"{path} holds '{name}', not '{wanted.name}'.",
            f"Use --model {name}, or give another path.",
            str(path),
            expected=wanted.name,
            found=name,
        )
