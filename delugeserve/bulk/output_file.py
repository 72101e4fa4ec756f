"""An output file that a run completes, however often it is interrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from pathlib import Path

from delugeserve.bulk.interrupts import interrupts_held
from delugeserve.bulk.items import Item
from delugeserve.bulk.job import Counts, label
from delugeserve.bulk.journal import (
    Journal,
    Request,
    State,
    check_log,
    output_lock,
    read_journal,
    remove,
)
from delugeserve.bulk.labelling import Labeller, begins_block
from delugeserve.bulk.outputs import FILE_FORMATS
from delugeserve.bulk.outputs.base import Format, display_name
from delugeserve.bulk.row_log import RowLog
from delugeserve.errors import OtherInputError, OutputExistsError, UsageError
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve_client import Classification

Watch = Callable[[Classification], None]


class OutputFile:
    """An output file, locked; see :func:`open_output`.

    Attributes:
        path: the file.
        format: name of its format.
        folder: lies beside the file until it is complete.
        state: how far it was when it was opened; None if it was not begun.
        saved: what a run that resumes this one keeps, counted in ``unit``.
        unit: ``rows``, or ``chunks`` of a cluster.
        replaces: what is there is removed as soon as rows can be written.
    """

    unit = "rows"

    def __init__(
        self, path: Path, format_: str, folder: Path, state: State | None, *, replaces: bool = False
    ) -> None:
        self.path, self.format, self.folder, self.state = path, format_, folder, state
        self.replaces = replaces
        self.saved = 0 if state is None else state.checkpoint.rows

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to do."""
        return self.state is None and self.path.exists() and not self.replaces

    @property
    def log(self) -> Path:
        """Where the rows are logged: the file itself, if its format can be appended to."""
        return log_of(self.path, self.format, self.folder)

    def label(
        self,
        request: Request,
        items: Iterable[Item],
        labeller: Labeller,
        counts: Counts,
        progress: Progress = NO_PROGRESS,
        watch: Watch = lambda _: None,
    ) -> None:
        """Write the rows that are missing, and complete the output.

        If an error ends this before the first row, nothing is left behind.

        Args:
            request: what decides the rows.
            items: all images; those that have rows already are skipped.
            labeller: labels them.
            counts: counts the rows of all runs; it is kept up to date if an error ends this one.
            progress: is told of the rows.
            watch: is shown the rows of this run.

        Raises:
            ClientError: the server stopped answering.
            OSError: the output cannot be written.
            ResumeError, OtherInputError: the rows there are not those of the request.
        """
        state = self.state
        try:
            with self.journal(request) as journal:
                state = state or State(request)
                self._label(state, items, labeller, counts, journal, progress, watch)
        except BaseException:
            if self.state is None and not self.saved:
                self.discard()
            raise
        remove(self.folder)

    def discard(self) -> None:
        """Remove the output and what lies beside it."""
        self.path.unlink(missing_ok=True)
        remove(self.folder)

    @contextmanager
    def journal(self, request: Request) -> Iterator[Journal]:
        """Open the journal of a request.

        Raises:
            OSError: it cannot be written.
            ResumeError, OtherInputError: the output was begun for another request.
        """
        if self.state is None:
            if self.replaces:
                self.discard()
            journal = Journal.create(self.folder, request)
        else:
            request.check(self.path, self.state.request)
            check_log(self.path, self.log, self.state.checkpoint)
            journal = Journal.append_to(self.folder, self.state.length)
        try:
            yield journal
        finally:
            journal.close()

    def _label(
        self,
        state: State,
        items: Iterable[Item],
        labeller: Labeller,
        counts: Counts,
        journal: Journal,
        progress: Progress,
        watch: Watch,
    ) -> None:
        def write(row: Classification) -> None:
            rows.write(row)
            watch(row)

        request, start = state.request, state.checkpoint
        kind = FILE_FORMATS[self.format](request.model, request.top_k)
        counts.refused, counts.below, counts.resumed = start.refused, start.below, start.rows
        counts.answered = start.rows - start.refused
        found = self._watch_shards(items, state, journal)
        block: list[Item] = []  # of the images that have rows, those that must be asked once more
        for row, before in enumerate(self._named_before(kind, start.rows), start=1):
            item = next(found, None)
            if item is None or display_name(item.source) != before:
                raise self._other_image(row, before, item)
            if begins_block(item, block[-1] if block else None, len(block)):
                block = []
            block.append(item)
        following = list(islice(found, 1))
        if not following or begins_block(following[0], block[-1] if block else None, len(block)):
            block = []  # it is complete
        rows = RowLog(kind, self.log, journal, start)
        try:
            label(
                chain(block, following, found),
                labeller,
                write,
                counts,
                top_k=request.top_k,
                threshold=request.threshold,
                leave_out=len(block),
                progress=progress,
            )
        finally:
            with interrupts_held():
                try:
                    rows.close()
                finally:
                    self.saved = rows.saved
        if not kind.finished:
            progress.stage(f"write {self.path.name}")
            kind.finish(self.log, self.path)

    def _watch_shards(
        self, items: Iterable[Item], state: State, journal: Journal
    ) -> Iterator[Item]:
        """Record the shards that are opened.

        Raises:
            OtherInputError: a shard is not what it was when it was opened before.
        """
        for item in items:
            shard = item.shard
            if shard is not None and state.shards.get(shard.source) != shard.stamp:
                if shard.source in state.shards:
                    raise OtherInputError(
                        self.path,
                        f"{display_name(shard.source)} was changed",
                        kind="shard",
                        before=state.shards[shard.source],
                        now=shard.stamp,
                    )
                state.shards[shard.source] = shard.stamp
                journal.shard(shard.source, shard.stamp)
            yield item

    def _named_before(self, kind: Format, rows: int) -> Iterator[str]:
        """Yield the names in the rows that are kept."""
        return islice(kind.sources(self.log), rows) if rows else iter(())

    def _other_image(self, row: int, before: str, item: Item | None) -> OtherInputError:
        now = "" if item is None else display_name(item.source)
        instead = f", and is now {now}" if now else ""
        return OtherInputError(
            self.path,
            f"the images changed: row {row:,} is of {before}{instead}",
            kind="source",
            before=before,
            now=now,
        )


def log_of(path: Path, format_: str, folder: Path) -> Path:
    """Return where the rows of an output are logged."""
    return path if FILE_FORMATS[format_].finished else folder / "rows"


@contextmanager
def open_output(
    path: Path, format_: str, *, resume: bool = False, overwrite: bool = False
) -> Iterator[OutputFile]:
    """Lock an output file, and find out how far it is.

    Args:
        path: the file.
        format_: name of its format.
        resume: continue what is there; without anything there, begin.
        overwrite: replace what is there, as soon as rows can be written.

    Raises:
        BusyOutputError: another process is writing it.
        OutputExistsError: it exists, and neither is asked for.
        OtherInputError: its journal cannot be read.
        UsageError: its folder cannot be written, or it is not a file.
    """
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a file.", "Give --output the path of a file.")
    with ExitStack() as stack:
        folder = stack.enter_context(output_lock(path))
        if overwrite:
            yield OutputFile(path, format_, folder, None, replaces=True)
            return
        state = read_journal(path, folder, log_of(path, format_, folder))
        if state is None:
            remove(folder)  # what a run that was killed at its very end left
        if not resume and (path.exists() or state is not None):
            raise OutputExistsError(path, None if state is None else state.checkpoint.rows)
        yield OutputFile(path, format_, folder, state)
