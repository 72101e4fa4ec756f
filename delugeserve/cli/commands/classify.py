"""``delugeserve classify``: classify images with a running server."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delugeserve.cli.options import DEFAULT_URL, Json, ServedModelName, Timeout, Url
from delugeserve.cli.render.classification import (
    describe,
    describe_skipped,
    print_classifications,
)
from delugeserve.cli.render.console import print_error, print_json
from delugeserve.cli.render.progress import show_progress
from delugeserve_client.errors import ClientError, ImageError

if TYPE_CHECKING:
    from delugeserve_client import Classification

_log = logging.getLogger(__name__)


def command(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATHS",
            help="Images, and folders, which are searched recursively.",
            show_default=False,
        ),
    ],
    model: ServedModelName = None,
    url: Url = DEFAULT_URL,
    top_k: Annotated[int, typer.Option(min=1, help="Number of classes to show per image.")] = 5,
    timeout: Timeout = 30,
    json: Json = False,
) -> None:
    """Classify images with a running server.

    Images that cannot be read are reported on standard error and skipped; the exit status is then
    2.
    """
    # Pillow warns of damage that it can repair. What it cannot read is an error.
    warnings.filterwarnings("ignore", module="PIL")
    results: list[Classification] = []
    failure: ClientError | None = None
    try:
        results.extend(_classify(list(_expand(paths)), url, model, top_k, timeout))
    except ClientError as error:
        if not any(result.predictions for result in results):
            raise
        failure = error
    if json:
        print_json([describe(result) for result in results])
    else:
        print_classifications([result for result in results if result.predictions])
    errors = [result.error for result in results if result.error is not None]
    for unreadable in errors:
        print_error(unreadable.problem, unreadable.remedy)
    if failure is not None:
        raise failure
    if errors:
        raise typer.Exit(2)


def _classify(
    items: Sequence[str | ImageError], url: str, model: str | None, top_k: int, timeout: float
) -> Iterator[Classification]:
    """Yield one result per item, in order."""
    from delugeserve_client import Classification, Classifier

    paths = [item for item in items if isinstance(item, str)]
    if not paths:
        yield from (Classification(e.source, (), e) for e in items if isinstance(e, ImageError))
        return
    with Classifier(url, model, timeout=timeout) as classifier, show_progress() as progress:
        progress.stage("classifying", total=len(paths))
        answers = classifier.stream(paths, top_k, on_error="return")
        for item in items:
            if isinstance(item, ImageError):
                yield Classification(item.source, (), item)
            else:
                yield next(answers)
                progress.advance()


def _expand(paths: Iterable[str]) -> Iterator[str | ImageError]:
    """Yield paths of images, with the images of folders in place of the folders."""
    for path in paths:
        if Path(path).is_dir():
            yield from _expand_folder(path)
        else:
            yield path


def _expand_folder(folder: str) -> Iterator[str | ImageError]:
    from delugeserve_client import find_images
    from delugeserve_client.formats import SUFFIXES

    try:
        contents = find_images(folder)
    except OSError as error:
        yield _unreadable(folder, error.strerror or str(error))
        return
    skipped = describe_skipped(contents)
    if skipped:
        _log.info("Skipped in %s: %s.", folder, skipped)
    yield from (str(path) for path in sorted([*contents.images, *contents.broken]))
    yield from (_unreadable(path, "permission denied") for path in contents.unreadable)
    if not (contents.images or contents.broken or contents.unreadable):
        yield ImageError(
            f"There are no images in {folder}.",
            f"Give a folder with files that end in {', '.join(SUFFIXES)}.",
            source=folder,
        )


def _unreadable(folder: str | Path, reason: str) -> ImageError:
    return ImageError(
        f"The folder {folder} cannot be read: {reason}.",
        "Change its permissions, or run as a user who may read it.",
        source=str(folder),
    )
