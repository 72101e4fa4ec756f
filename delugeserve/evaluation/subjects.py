"""Opening what is evaluated: each becomes a classifier of uint8 images that gives logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from delugeserve.artifacts.graphs import read_graph
from delugeserve.artifacts.interface import INPUT, LOGITS, PROBABILITIES
from delugeserve.artifacts.references import Reference
from delugeserve.errors import UsageError, require
from delugeserve.zoo import ModelSpec, find_model

if TYPE_CHECKING:
    from delugeserve.evaluation.evaluate import Classify

_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Subject:
    """A classifier of uint8 images, and what it is.

    Attributes:
        title: what to call it in print.
        spec: the model.
        classify: the classifier.
        class_names: one for each logit, where it says so itself.
        batch_size: how many images it is given at a time.
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
        reference: what.
        spec: the model that it must be. Of a server's models it says which; the others name their
            model themselves.

    Raises:
        UsageError: it cannot be opened, or is another model.
        ClientError: the server does not answer, or does not serve the model.
    """
    if reference.kind == "endpoint":
        with _endpoint(reference.value, spec) as subject:
            yield subject
    elif reference.kind == "weights":
        yield _weights(reference.value, spec)
    else:
        open_file = {"checkpoint": _checkpoint, "onnx": _onnx, "version": _version}[reference.kind]
        yield open_file(Path(reference.value), spec)


def _weights(name: str, spec: ModelSpec | None) -> Subject:
    require("torch", "train")
    from delugeserve.networks.checkpoint import shipped_weights

    return _checkpoint(shipped_weights(find_model(name)), spec)


def _checkpoint(path: Path, spec: ModelSpec | None) -> Subject:
    require("torch", "train")
    from delugeserve.networks.checkpoint import load_checkpoint
    from delugeserve.networks.classifier import network_classifier

    loaded = load_checkpoint(path, spec)
    return Subject(
        f"{path.name} (PyTorch, fp32)",
        loaded.spec,
        network_classifier(loaded.build(), loaded.spec.dataset),
        loaded.class_names,
    )


def _onnx(path: Path, spec: ModelSpec | None) -> Subject:
    runtime = require("onnxruntime", "export")
    ours = "Give an ONNX file that 'delugeserve export --backend onnxruntime' wrote"
    try:
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors have no base of their own
        reason = str(error).rpartition("failed:")[2].strip(" .")
        raise UsageError(f"ONNX Runtime cannot load {path} ({reason}).", f"{ours}.") from error
    found = _tensors(session.get_inputs()), _tensors(session.get_outputs())
    name = session.get_modelmeta().custom_metadata_map.get("model")
    if name is not None:
        spec = _find_agreed(name, spec, path)
    if spec is None:
        raise UsageError(
            f"{path} does not say which model it holds; it takes {_listed(found[0])} and gives "
            f"{_listed(found[1])}.",
            f"{ours}, which takes '{INPUT}' uint8 [N, H, W, 3], or say which with --model.",
        )
    size, logits = spec.dataset.image_size, f"float [N, {spec.dataset.num_classes}]"
    expected = (
        {INPUT: f"uint8 [N, {size}, {size}, 3]"},
        {LOGITS: logits, PROBABILITIES: logits},
    )
    if found != expected:
        raise UsageError(
            f"{path} takes {_listed(found[0])} and gives {_listed(found[1])}, but '{spec.name}' "
            f"takes {_listed(expected[0])} and gives {_listed(expected[1])}.",
            f"{ours}.",
        )
    return Subject(
        f"{path.name} (ONNX Runtime, {_stored_precision(path)})",
        spec,
        lambda images: session.run([LOGITS], {INPUT: images})[0],
    )


def _stored_precision(path: Path) -> str:
    """The type that most nodes with weights of an ONNX file have theirs stored in."""
    dtype = next(iter(read_graph(path).weights), "no weights")
    return _PRECISIONS.get(dtype, dtype)


def _tensors(tensors: list[Any]) -> dict[str, str]:
    """Type and shape of a graph's inputs or outputs, by name; lengths that are free are N."""
    return {
        tensor.name: tensor.type.removeprefix("tensor(").removesuffix(")")
        + f" [{', '.join(str(n) if isinstance(n, int) else 'N' for n in tensor.shape)}]"
        for tensor in tensors
    }


def _listed(tensors: Mapping[str, str]) -> str:
    return " and ".join(f"'{name}' {tensor}" for name, tensor in tensors.items())


def _version(folder: Path, spec: ModelSpec | None) -> Subject:
    from delugeserve.artifacts import labels
    from delugeserve.runtimes import BACKENDS
    from delugeserve.verification.verify import load_version

    manifest, infer = load_version(folder)
    spec = _find_agreed(manifest.model, spec, folder)
    runtime = BACKENDS[manifest.backend].title
    title = f"{spec.name}/{folder.resolve().name} ({runtime}, {manifest.precision})"
    return Subject(
        title,
        spec,
        lambda images: infer(images)[0],
        labels.read_labels(folder / labels.FILE_NAME),
        batch_size=min(Subject.batch_size, manifest.max_batch_size),
    )


@contextmanager
def _endpoint(url: str, spec: ModelSpec | None) -> Iterator[Subject]:
    from delugeserve.evaluation.evaluate import as_logits
    from delugeserve_client import Classifier

    if spec is None:
        raise UsageError("A server serves several models.", "Say which with --model.")
    size, classes = spec.dataset.image_size, spec.dataset.num_classes
    with Classifier(url, spec.name) as classifier:
        served = classifier.model
        if served.image_shape != (size, size, 3) or served.num_classes != classes:
            raise UsageError(
                f"'{spec.name}' at {url} tells {served.num_classes} classes apart in images of "
                f"{list(served.image_shape)}, not {classes} in images of {[size, size, 3]}.",
                "Ask for another model, or another server.",
            )
        classify = as_logits(classifier.infer)
        if LOGITS in served.outputs:
            classify = partial(classifier.infer, output=LOGITS)
        yield Subject(f"{spec.name} at {url}", spec, classify)


def _find_agreed(name: str, wanted: ModelSpec | None, path: Path) -> ModelSpec:
    """The model that an artefact names, which must be the one asked for, if one was."""
    if wanted is not None and wanted.name != name:
        raise UsageError(
            f"{path} holds '{name}', not '{wanted.name}'.",
            f"Say --model {name}, or give another path.",
        )
    return find_model(name)
