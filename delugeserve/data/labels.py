"""Labels and class names, brought into the order of the data set's classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.labels import check_class_names
from delugeserve.errors import DatasetError
from delugeserve.zoo import TASKS, Task

# ImageNet's class folders are named after WordNet numbers, whose order is that of its classes.
_WORDNET_NUMBER = re.compile(r"n\d{8}")

_NAMED = 5


def simplify(name: str) -> str:
    """Return a class name without the differences in spelling between data sets."""
    simple = " ".join(name.replace("_", " ").replace("-", " ").lower().split())
    # CIFAR-100 on the Hugging Face Hub has this misspelling of "crab".
    return "crab" if simple == "cra" else simple


def order_in(names: Sequence[str], task: Task) -> NDArray[np.int64] | None:
    """Return the data set's index of each class name.

    Returns:
        int64 ``[len(names)]``, or None if a name is not the data set's or two are the same.
    """
    known = {simplify(name): index for index, name in enumerate(task.class_names)}
    indices = [known.get(simplify(name), -1) for name in names]
    if -1 in indices or len(set(indices)) < len(indices):
        return None
    return np.array(indices, np.int64)


def name_classes(folders: Sequence[str], task: Task) -> tuple[str, ...]:
    """Return the class names of class folders: ImageNet's for WordNet numbers, else their own."""
    numbered = all(_WORDNET_NUMBER.fullmatch(name) for name in folders)
    if numbered and task.name == "imagenet" and len(folders) == task.num_classes:
        return task.class_names
    return tuple(folders)


def align(
    source: Path,
    labels: NDArray[np.int64],
    class_names: tuple[str, ...] | None,
    task: Task,
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Bring labels and class names into the order of the data set's classes.

    Class names that are not the data set's are kept, in their order.

    Args:
        source: path of the files.
        labels: int64 ``[N]``, as the files hold them.
        class_names: in the order of the labels; None if the files do not name the classes.
        task: the data set that the files should hold.

    Returns:
        The labels, int64 ``[N]``, and the class names that they index.

    Raises:
        DatasetError: there are no images, another number of classes, or a label out of range.
        ClassNameError: a class name is not UTF-8, is empty or contains a line break.
    """
    if not len(labels):
        raise DatasetError(
            f"{source} has no images.", "Give a data set that has images.", path=source
        )
    order = None
    if class_names is None:
        class_names = task.class_names
    else:
        check_class_names(class_names, source)
        order = order_in(class_names, task)
        if order is None and len(class_names) != task.num_classes:
            raise _class_count_error(source, labels, class_names, task)
    outside = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
    if len(outside):
        row = int(outside[0])
        raise DatasetError(
            f"Image {row} of {source} (counted from 0) has label {labels[row]}, but labels of"
            f" {task.title} go from 0 to {len(class_names) - 1}.",
            "Correct the label, or choose a model for this data set.",
            path=source,
            name=str(row),
            expected=range(len(class_names)),
            found=int(labels[row]),
        )
    if order is None:
        return labels, class_names
    return order[labels], task.class_names


def list_names(names: Iterable[str]) -> str:
    """Return the first names in quotes, for a message."""
    names = list(names)
    more = ", ..." if len(names) > _NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:_NAMED]) + more


def _class_count_error(
    source: Path,
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    task: Task,
) -> DatasetError:
    extra, missing = _compare(labels, class_names, task)
    count, wanted = len(class_names), task.num_classes
    details = [
        f"{what}: {list_names(names)}"
        for what, names in (("extra", extra), ("missing", missing))
        if names
    ]
    other = next(
        (
            other
            for other in TASKS.values()
            if other.num_classes == count and order_in(class_names, other) is not None
        ),
        None,
    )
    if other:
        remedy = f"Choose a model for {other.title}; 'delugeserve models' lists them."
    elif extra and not missing:
        remedy = "Remove the extra classes from the data set."
    elif missing and not extra:
        remedy = "Add the missing classes to the data set."
    else:
        remedy = f"Give a data set of {wanted} classes."
    return DatasetError(
        f"{source} has {count} classes, but {task.title} has {wanted}"
        f"{''.join(f'; {detail}' for detail in details)}.",
        remedy,
        path=source,
        expected=wanted,
        found=count,
        extra=extra,
        missing=missing,
    )


def _compare(
    labels: NDArray[np.int64], class_names: tuple[str, ...], task: Task
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the extra and the missing classes, as far as they can be known."""
    known = {simplify(name): name for name in task.class_names}
    given: set[str] = set()
    extra = []
    for name in class_names:
        simple = simplify(name)
        if simple in given or simple not in known:
            extra.append(name)
        given.add(simple)
    if given & known.keys():
        return tuple(extra), tuple(name for simple, name in known.items() if simple not in given)
    # The classes have names of their own. WordNet numbers, and classes without images, may still
    # show which of them do not belong to the data set.
    numbered = [bool(_WORDNET_NUMBER.fullmatch(name)) for name in class_names]
    if task.name == "imagenet" and any(numbered):
        odd = [name for name, number in zip(class_names, numbered, strict=True) if not number]
    else:
        odd = [name for label, name in enumerate(class_names) if not (labels == label).any()]
    surplus = len(class_names) - task.num_classes
    return (tuple(odd) if 0 < len(odd) <= surplus else ()), ()
