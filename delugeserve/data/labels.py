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
    exact = {name: index for index, name in enumerate(task.class_names)}
    similar = {simplify(name): index for index, name in enumerate(task.class_names)}
    for known, spelling in ((exact, str), (similar, simplify)):
        indices = [known.get(spelling(name), -1) for name in names]
        if -1 not in indices and len(set(indices)) == len(indices):
            return np.array(indices, np.int64)
    return None


def _order_of_used(
    labels: NDArray[np.int64], names: Sequence[str], task: Task
) -> NDArray[np.int64] | None:
    """Return the task's index of each class name that has images, and -1 for the others.

    A folder without images beside the class folders then does no harm.
    """
    used = np.unique(labels[(labels >= 0) & (labels < len(names))])
    known = order_in([names[label] for label in used], task)
    if known is None:
        return None
    order = np.full(len(names), -1)
    order[used] = known
    return order


def as_numbers(labels: Sequence[str]) -> NDArray[np.int64] | None:
    """Return labels that are indices of classes as int64 ``[N]``; None if they are names."""
    for label in set(labels):
        # "007" is a name: as a number it would lose its zeros.
        if not (label.isascii() and label.isdecimal() and len(label) < 10):
            return None
        if label != str(int(label)):
            return None
    return np.array([int(label) for label in labels], np.int64)


def number_names(labels: Sequence[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Number the classes of some images by name.

    Args:
        labels: the name of each image's class.

    Returns:
        The labels, int64 ``[N]``, and the class names that they index, sorted.
    """
    class_names = tuple(sorted(set(labels)))
    number = {name: index for index, name in enumerate(class_names)}
    return np.array([number[label] for label in labels], np.int64), class_names


def other_classes(
    path: Path, train: Path, unknown: Sequence[str], known: Sequence[str]
) -> DatasetError:
    """Return the error about classes that the training split does not have.

    Args:
        path: files of the other split.
        train: files of the training split.
        unknown: the classes.
        known: the classes of the training split.
    """
    folded = {name.casefold(): name for name in known}
    alike = [(name, folded[name.casefold()]) for name in unknown if name.casefold() in folded]
    if alike:
        pairs = " and ".join(f"'{other}' into '{name}'" for other, name in alike[:_NAMED])
        remedy = f"Rename {pairs}: the names differ only in case."
    else:
        remedy = "Give both splits the same classes."
    return DatasetError(
        f"{path} has classes that {train} does not have: {list_names(unknown)}.",
        remedy,
        path=path,
        name=unknown[0],
        extra=unknown,
    )


def is_wordnet_order(names: Sequence[str], task: Task) -> bool:
    """Return whether class names are the WordNet numbers of all of ImageNet's classes, in order."""
    return (
        task.name == "imagenet"
        and len(names) == task.num_classes
        and all(_WORDNET_NUMBER.fullmatch(name) for name in names)
        and list(names) == sorted(names)
    )


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
        raise no_images(source)
    order = None
    if class_names is None and as_numbers(task.class_names) is not None:
        # The classes are called by their numbers, which may have gaps.
        class_names = tuple(map(str, range(int(labels.max()) + 1)))
        number = {name: index for index, name in enumerate(task.class_names)}
        order = np.array([number.get(name, -1) for name in class_names])
        unknown = sorted({int(label) for label in labels if label < 0 or order[label] < 0})
        if unknown:
            raise DatasetError(
                f"{source} has labels that the network does not have: {unknown[0]} and so on.",
                "Give a data set with the classes of the training data.",
                path=source,
                name=str(unknown[0]),
                extra=[str(label) for label in unknown],
            )
    elif class_names is None or is_wordnet_order(class_names, task):
        class_names = task.class_names
    else:
        check_class_names(class_names, source)
        order = order_in(class_names, task)
        if order is None:
            order = _order_of_used(labels, class_names, task)
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


def no_images(source: Path) -> DatasetError:
    """Return the error about a source without images."""
    return DatasetError(f"{source} has no images.", "Give a data set that has images.", path=source)


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
            spec
            for spec in TASKS.values()
            if spec.num_classes == count and order_in(class_names, spec) is not None
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
