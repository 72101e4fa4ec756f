"""What ``classify`` does: print rows or write them, and say what became of every image."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

from delugeserve.bulk.engines import Engine, open_labeller
from delugeserve.bulk.engines.ray_cluster import OnCluster
from delugeserve.bulk.items import Item, Skipped
from delugeserve.bulk.job import Counts, label
from delugeserve.bulk.journal import Request, folder_of
from delugeserve.bulk.labelling import Labeller, ModelIdentity
from delugeserve.bulk.output_file import OutputFile
from delugeserve.bulk.outputs import FILE_FORMATS, FormatName
from delugeserve.bulk.sources import STDIN, count_items, find_items, open_shards
from delugeserve.cli.render.classification import (
    JsonRows,
    LineRows,
    Rows,
    TableRows,
    describe_skipped,
)
from delugeserve.cli.render.console import ClosedPipe, out, print_error, unwritable_output
from delugeserve.cli.render.progress import show_progress
from delugeserve.cli.render.safe_text import printable
from delugeserve.data.formats import HEIF_SUFFIXES
from delugeserve.errors import Failure, UnfinishedError, UsageError
from delugeserve.system.progress import NO_PROGRESS
from delugeserve_client.errors import ClientError
from delugeserve_client.results import Classification

_log = logging.getLogger(__name__)

_ERRORS_SHOWN = 20


class Images:
    """The images that the arguments stand for.

    Args:
        arguments: those of the command.
        output: the file that is written; it is no image.
    """

    def __init__(self, arguments: Sequence[str], output: Path | None) -> None:
        self.arguments = tuple(arguments)
        self._outputs = set() if output is None else _paths_of(output)
        self._names = {os.path.basename(path) for path in self._outputs}  # noqa: PTH119
        self._head: list[Item] = []
        self._found = self._find()

    def check(self) -> None:
        """Check that there are images, readable or not.

        Raises:
            UsageError: the list on standard input is empty.
        """
        self._head = list(islice(self._found, 1))
        if not self._head:
            raise UsageError(
                "The list on standard input is empty.", "Write the path of an image on each line."
            )

    def any_readable(self) -> bool:
        """Return whether there is an image, beside what is known to be unreadable.

        Raises:
            UsageError: the list on standard input is empty.
        """
        self.check()
        while self._head[-1].error is not None:
            following = next(self._found, None)
            if following is None:
                return False
            self._head.append(following)
        return True

    def __iter__(self) -> Iterator[Item]:
        """List the images, once."""
        skipped = Skipped()
        yield from open_shards(self.unopened(), skipped)
        _tell("inside archives", skipped)

    def unopened(self) -> Iterator[Item]:
        """List the images and the shards, which are not opened, once."""
        yield from self._head
        self._head.clear()
        yield from self._found

    def _find(self) -> Iterator[Item]:
        try:
            yield from find_items(
                self.arguments,
                stdin=sys.stdin.buffer,
                left_out=self._is_output,
                skips=lambda argument, skipped: _tell(f"in {printable(argument)}", skipped),
            )
        except OSError as error:  # others take it for one of the output
            raise Failure(
                f"The images cannot be listed: {error.strerror or error}.",
                "Check that standard input is a list, and that the folders can be read.",
            ) from error

    def count(self) -> int | None:
        """Return how many there are, if that is quickly counted."""
        return count_items(self.arguments)

    def _is_output(self, path: str) -> bool:
        if os.path.basename(path) not in self._names:  # noqa: PTH119 - asked for each file
            return False
        return os.path.abspath(path) in self._outputs  # noqa: PTH100 - no links


def _paths_of(output: Path) -> set[str]:
    """Return the paths of an output, of what it is a link to, and of the folders beside them."""
    paths = (Path(os.path.abspath(output)), output.resolve())  # noqa: PTH100 - no links
    return {str(found) for path in paths for found in (path, folder_of(path))}


def print_rows(
    images: Images,
    engine: Callable[[], Engine],
    counts: Counts,
    *,
    form: FormatName,
    top_k: int,
    threshold: float | None,
) -> None:
    """Print a row for each image on standard output.

    Args:
        images: what to label.
        engine: returns what labels. It is not called if no image can be read, and the form does
            not name the model.
        counts: counts the rows.
        form: how they are printed.
        top_k: the most classes of a row.
        threshold: the least probability of a class in a row; None for no limit.

    Raises:
        ClientError: the server does not answer, or does not serve the model.
        UsageError: the list on standard input is empty.
        Failure: the server stopped answering, or standard output cannot be written.
    """
    readable = images.any_readable()
    if form in FILE_FORMATS or readable:
        labeller = open_labeller(engine())
    elif form == "table":
        _report_refused(images, counts)
        return
    else:
        labeller = _NoModel()
    shown = _Complaints(told=not (form == "table" and out.is_terminal))
    total = images.count()
    top_k = min(top_k, labeller.classes)
    try:
        rows = _open_rows(form, labeller, top_k)
        try:
            # On a terminal the rows show how far it is, and a bar would be in their way.
            with nullcontext(NO_PROGRESS) if out.is_terminal else show_progress() as progress:
                progress.stage("classify", total)

                def write(row: Classification) -> None:
                    rows.write(row)
                    shown.add(row)

                label(
                    images,
                    labeller,
                    write,
                    counts,
                    top_k=top_k,
                    threshold=threshold,
                    progress=progress,
                )
        finally:
            rows.close()
    except ClientError as error:
        of = "" if total is None else f" of {total:,}"
        raise Failure(
            f"{error.problem} {counts.images:,}{of} images have been classified.", error.remedy
        ) from error
    except BrokenPipeError:
        raise ClosedPipe from None
    except OSError as error:
        raise unwritable_output(error) from error
    finally:
        shown.close()
        labeller.close()


def write_file(
    output: OutputFile,
    request: Request,
    images: Images,
    labels: Labeller | OnCluster,
    counts: Counts,
) -> None:
    """Write a row for each image to a file.

    Args:
        output: the file.
        request: what decides the rows.
        images: what to label.
        labels: labels them.
        counts: counts the rows.

    Raises:
        UnfinishedError: it stopped before its end.
        ResumeError, OtherInputError: the rows there are not those of the request.
    """
    shown = _Complaints(told=True)
    try:
        with show_progress() as progress:
            if isinstance(labels, OnCluster):
                labels.label(output, request, images.unopened(), counts, progress)
                return
            total = images.count()
            progress.stage("classify", None if total is None else max(0, total - output.saved))
            output.label(request, images, labels, counts, progress, shown.add)
    except KeyboardInterrupt as stop:
        number = getattr(stop, "number", signal.SIGINT)
        raise _unfinished(output, "Stopped.", "", 128 + number) from None
    except (ClientError, Failure) as error:
        raise _unfinished(output, error.problem, error.remedy) from error
    except OSError as error:
        problem = f"{output.path} cannot be written: {error.strerror or error}."
        raise _unfinished(output, problem, "Free some space.") from error
    finally:
        shown.close()


def _report_refused(images: Images, counts: Counts) -> None:
    """Tell why nothing that was given is an image."""
    shown = _Complaints(told=True)
    for row in _NoModel().label(images, 1):
        shown.add(row)
        counts.add(row)
    shown.close()


def describe_counts(counts: Counts, threshold: float | None) -> str:
    """Return the line that adds up."""
    parts = [f"{counts.images:,} in = {counts.answered:,} answered + {counts.refused:,} refused"]
    if threshold is not None:
        parts.append(f"{counts.below:,} answered below {threshold:g}")
    if counts.resumed:
        parts.append(f"{counts.resumed:,} by earlier runs")
    parts.append(f"{counts.seconds:,.1f} s, {counts.rate:,.0f} images/s")
    return "; ".join(parts)


def summary(output: Path, counts: Counts | None, model: ModelIdentity | None) -> dict[str, Any]:
    """Return what ``--json`` prints of a file.

    Args:
        output: the file.
        counts: of the rows that were written; None if the file was there already.
        model: what labelled them; None if the file was there already.
    """
    return {
        "output": str(output),
        "already_complete": counts is None,
        "images": counts and counts.images,
        "answered": counts and counts.answered,
        "refused": counts and counts.refused,
        "below_threshold": counts and counts.below,
        "resumed": counts and counts.resumed,
        "seconds": counts and round(counts.seconds, 3),
        "images_per_s": counts and round(counts.rate, 1),
        "model": model and model.name,
        "version": model and model.version,
        "digest": model and model.digest,
    }


class _Complaints:
    """Prints why images cannot be read, for the first of them.

    Args:
        told: print anything at all.
    """

    def __init__(self, *, told: bool) -> None:
        self._told, self._count = told, 0

    def add(self, row: Classification) -> None:
        if row.error is None:
            return
        self._count += 1
        if self._told and self._count <= _ERRORS_SHOWN:
            print_error(row.error.problem, row.error.remedy)

    def close(self) -> None:
        more = self._count - _ERRORS_SHOWN
        if self._told and more > 0:
            _log.warning("%s more cannot be read; the output says why.", f"{more:,}")


class _NoModel:
    """Stands for a model where no image can be read."""

    model = ModelIdentity("", "")
    classes = 0

    def label(self, items: Iterable[Item], top_k: int) -> Iterator[Classification]:
        return (Classification(item.source, (), item.error) for item in items)

    def close(self) -> None:
        pass


def _open_rows(form: FormatName, labeller: Labeller, top_k: int) -> Rows:
    if form == "table":
        return TableRows()
    if form == "json":
        return JsonRows()
    return LineRows(FILE_FORMATS[form](labeller.model, top_k))


def _unfinished(output: OutputFile, problem: str, remedy: str, status: int = 1) -> UnfinishedError:
    rows = output.saved
    if rows:
        problem = f"{problem} {rows:,} {output.unit} are safe in {_place(output)}."
        again = "Continue with" if STDIN not in sys.argv else "Continue, with the same list, with"
        end = "." if remedy and not remedy.endswith(".") else ""  # some end in a command
        remedy = f"{remedy}{end} {again}: {_resume_command()}".strip()
    return UnfinishedError(
        problem, remedy or "Run it again.", path=output.path, rows=rows, exit_code=status
    )


def _place(output: OutputFile) -> Path:
    in_place = output.unit == "rows" and output.log == output.path
    return output.path if in_place else output.folder


def _resume_command() -> str:
    words = [word for word in sys.argv[1:] if word != "--overwrite"]
    return printable(shlex.join(["delugeserve", *words, *["--resume"] * ("--resume" not in words)]))


def _tell(where: str, skipped: Skipped) -> None:
    if skipped.others or skipped.hidden:
        _log.info("Skipped %s: %s.", where, describe_skipped(skipped))
    heic = sum(skipped.others[suffix] for suffix in HEIF_SUFFIXES)
    if heic:
        _log.warning(
            "%s HEIC images %s are skipped. To read them: pip install 'delugeserve[heic]'",
            f"{heic:,}",
            where,
        )
