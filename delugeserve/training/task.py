"""What a run trains a network for: the model's own task, or the classes of a person's data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from delugeserve import zoo
from delugeserve.artifacts.names import check_model_name, nearest_model_name
from delugeserve.data.catalogue import Catalogue
from delugeserve.data.labels import simplify
from delugeserve.data.pixels import measure_pixels
from delugeserve.errors import UnknownNameError, UsageError
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve.training.config import Normalisation, TaskOptions
from delugeserve.zoo import CIFAR10, IMAGENET, ModelSpec, Task


@dataclass(frozen=True)
class ChosenTask:
    """The network that a run trains.

    Attributes:
        spec: the network.
        own: whether its task is the person's own; otherwise it is the registered model's.
        normalised_by: where mean and standard deviation of an own task come from.
        note: what a person may not expect of the classes; empty if there is nothing.
    """

    spec: ModelSpec
    own: bool
    normalised_by: str = ""
    note: str = ""


def choose_task(
    model: ModelSpec,
    catalogue: Catalogue,
    output: Path,
    options: TaskOptions,
    *,
    initial: ModelSpec | None = None,
    progress: Progress = NO_PROGRESS,
) -> ChosenTask:
    """Choose the task of a run.

    It is the registered model's own if the data has its classes and no other size or normalisation
    is asked for. Otherwise the classes are those of the data.

    Args:
        model: the registered model.
        catalogue: the data.
        output: the run's folder.
        options: what was asked for.
        initial: the network of the initial checkpoint, if there is one.
        progress: receives the images that are measured.

    Raises:
        UsageError: the image size does not fit the network, or the name is not usable or taken.
        UnknownNameError: there is no such normalisation.
        DatasetError: the images cannot be decoded.
    """
    if options.normalise is not None and options.normalise not in get_args(Normalisation):
        raise UnknownNameError("normalisation", options.normalise, get_args(Normalisation))
    same_classes = catalogue.has_classes_of(model.task)
    size = options.image_size
    usual_size = size is None or size == model.task.image_size
    if same_classes and usual_size and options.normalise is None:
        name = model.name if options.name is None else options.name
        _check_name(name, model)
        return ChosenTask(replace(model, name=name), own=False)

    names = model.task.class_names if same_classes else catalogue.class_names
    folder = output.expanduser().resolve().name
    own_name = nearest_model_name(folder) if options.name is None else options.name
    _check_name(own_name, None)
    before = initial.task if initial is not None else None
    if size is None:
        size = (before or model.task).image_size
    model.architecture.check_image_size(size)
    resize = round(size * model.task.resize_size / model.task.image_size)
    task = Task(own_name, own_name, tuple(names), size, resize, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    mean, std, origin = _normalisation(options.normalise, before, catalogue, task, progress)
    task = replace(task, mean=mean, std=std)
    spec = ModelSpec(own_name, model.architecture, task)
    return ChosenTask(spec, own=True, normalised_by=origin, note=_note(task, model.task))


def _normalisation(
    chosen: Normalisation | None,
    before: Task | None,
    catalogue: Catalogue,
    task: Task,
    progress: Progress,
) -> tuple[tuple[float, float, float], tuple[float, float, float], str]:
    if chosen is None and before is not None:
        return before.mean, before.std, "of the initial checkpoint"
    known = {"imagenet": IMAGENET, "cifar10": CIFAR10}.get(chosen or "data")
    if known is not None:
        return known.mean, known.std, f"of {known.title}"
    images = catalogue.index("train", task)
    found = measure_pixels(images, task.image_size, task.resize_size, progress=progress)
    # A channel of one value, such as a blank one, would otherwise be divided by zero.
    red, green, blue = (std or 1.0 for std in found.std)
    return found.mean, (red, green, blue), f"of {found.images:,} training images"


def _note(task: Task, registered: Task) -> str:
    """Say that some classes are the registered task's, and that the network has these alone."""
    known = {simplify(name) for name in registered.class_names}
    shared = [name for name in task.class_names if simplify(name) in known]
    if not shared or task.num_classes == registered.num_classes:
        return ""
    some = "all" if len(shared) == task.num_classes else f"{len(shared)}"
    return (
        f"{some} of these {task.num_classes} classes are among the {registered.num_classes} of"
        f" {registered.title}; the network has {task.num_classes} outputs"
    )


def _check_name(name: str, model: ModelSpec | None) -> None:
    """Check that a network can have a name; that of a registered model, only ``model`` can."""
    check_model_name(name)  # it becomes the name of a file and of a served model
    if name in zoo.MODELS and (model is None or name != model.name):
        raise UsageError(
            f"'{name}' is the name of a registered model, which has other classes.",
            "Choose another with --name.",
        )
