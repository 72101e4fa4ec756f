"""Label on a Ray cluster: Ray Data spreads the list of images, and keeps what is done.

The list is written in chunks (:mod:`delugeserve.bulk.chunks`). Ray Data maps each chunk to its rows
and writes them to a file of its own. Its checkpoints record which chunks are done, in two phases:
what a killed run left half-written is removed by the next. At the end the rows are joined in the
order of the list, so that the output has the same bytes as that of one machine.
"""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delugeserve.bulk.chunks import SMALL, first_change, read_chunk, write_chunks
from delugeserve.bulk.engines import Engine, open_labeller
from delugeserve.bulk.engines.ray_session import SPARE_CPUS, quiet_ray_data, ray_session
from delugeserve.bulk.items import Item, Skipped
from delugeserve.bulk.job import Counts, label
from delugeserve.bulk.journal import Journal, Listed, Request, State, remove
from delugeserve.bulk.labelling import Labeller
from delugeserve.bulk.output_file import OutputFile
from delugeserve.bulk.outputs import FILE_FORMATS
from delugeserve.bulk.outputs.base import display_name
from delugeserve.errors import DelugeServeError, Failure, OtherInputError, reason_of
from delugeserve.system.files import atomic_write
from delugeserve.system.imports import require
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve_client import Classification, ClientError

EXTRA = "ray"
_POLL_S = 1.0
_FAILURE = "failure.json"  # beside the list: what a worker says of its own error
_CHECKPOINT_MEMORY = 64 * 2**20  # bytes that Ray reserves; 100,000 chunks take less than one MB


@dataclass(frozen=True)
class Cluster:
    """Where to label.

    Attributes:
        address: of a cluster, such as ``auto`` or ``ray://head:10001``; None starts Ray here.
        workers: processes that label at once; None takes a cluster's CPUs, or those of this
            machine.
        chunk: images of the first chunks.
    """

    address: str | None = None
    workers: int | None = None
    chunk: int = SMALL


@dataclass(frozen=True)
class OnCluster:
    """Labels on a cluster.

    Attributes:
        engine: what labels, in each worker.
        cluster: where.
    """

    engine: Engine
    cluster: Cluster

    def label(
        self,
        output: OutputFile,
        request: Request,
        items: Iterable[Item],
        counts: Counts,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        """Write the rows that are missing, and complete the output.

        Args:
            output: the file. The folder beside it must be one that all machines reach.
            request: what decides the rows.
            items: all images and shards; shards are opened by the workers.
            counts: counts the rows of all runs, at the end.
            progress: is told of the chunks.

        Raises:
            MissingExtraError: Ray is not installed.
            UsageError: there is no such cluster.
            ClientError: the server stopped answering.
            Failure: a worker failed.
            OSError: the output cannot be written.
            ResumeError, OtherInputError: the output was begun for another request.
        """
        require("ray.data", EXTRA)
        output.unit = "chunks"
        started = time.monotonic()
        before = set(_parts(output.folder))
        try:
            listed = self._label(output, request, items, progress)
        except BaseException:
            if output.state is None and not output.saved:
                output.discard()
            raise
        request = request if output.state is None else output.state.request
        _join(output, request, listed.chunks, before, counts, progress)
        counts.seconds = time.monotonic() - started
        remove(output.folder)

    def _label(
        self, output: OutputFile, request: Request, items: Iterable[Item], progress: Progress
    ) -> Listed:
        """Label the chunks that are missing."""
        with output.journal(request) as journal:
            state = output.state or State(request)
            listed = _list_chunks(output, state, items, journal, self.cluster, progress)
            output.saved = _count_done(output.folder)
            progress.stage("start Ray")
            with ray_session(self.cluster.address, self.cluster.workers):
                progress.stage("classify chunks", max(0, listed.chunks - output.saved))
                try:
                    with _watch(output, progress):
                        # The workers are in other folders.
                        folder, engine = output.folder.resolve(), self.engine.absolute()
                        _run(folder, state.request, listed.chunks, engine, self.cluster)
                finally:
                    output.saved = _count_done(output.folder)
        return listed


def _list_chunks(
    output: OutputFile,
    state: State,
    items: Iterable[Item],
    journal: Journal,
    cluster: Cluster,
    progress: Progress,
) -> Listed:
    """Write the list of images, or check that the one there is still right."""
    folder = output.folder / "chunks"
    progress.stage("list images")
    if state.listed is None:
        listed = Listed(write_chunks(items, folder, small=cluster.chunk))
        journal.listed(listed)
        return listed
    changed = first_change(items, folder, state.listed.chunks)
    if changed is not None:
        raise _other_images(output, *map(display_name, changed))
    return state.listed


def _other_images(output: OutputFile, before: str, now: str) -> OtherInputError:
    if before == now:
        return OtherInputError(
            output.path, f"{now} was changed", kind="shard", before=before, now=now
        )
    change = f"{now} instead of {before}" if before and now else f"{now} is new"
    if not now:
        change = f"{before} is missing"
    return OtherInputError(
        output.path, f"the images changed: {change}", kind="source", before=before, now=now
    )


def _run(folder: Path, request: Request, chunks: int, engine: Engine, cluster: Cluster) -> None:
    """Label the chunks that are not done."""
    import ray
    from ray.data.checkpoint import CheckpointConfig

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    checkpoint = CheckpointConfig(
        id_column="id",
        checkpoint_path=str(folder / "checkpoint"),
        delete_checkpoint_on_success=False,
    )
    checkpoint.checkpoint_actor_pool_max_size = 1
    checkpoint.checkpoint_actor_memory_bytes = _CHECKPOINT_MEMORY
    context.checkpoint_config = checkpoint
    # A block for each chunk: a block is what a worker takes, and what is written at once.
    cpus = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
    workers = min(cluster.workers or max(1, cpus - SPARE_CPUS), chunks)
    with ray.data.DataContext.current(context), quiet_ray_data():
        # Few tasks beside the workers: each has a process, which takes seconds to start.
        numbers = ray.data.range(chunks, override_num_blocks=chunks, concurrency=1 + workers // 16)
        rows = numbers.map_batches(
            _Worker,
            fn_constructor_args=(str(folder / "chunks"), request, engine),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
        )
        (folder / _FAILURE).unlink(missing_ok=True)
        try:
            rows.write_parquet(
                str(folder / "parts"), compression="zstd", concurrency=1 + workers // 4
            )
        except Exception as error:
            raise _cause(error, folder) from error


def _cause(error: Exception, folder: Path) -> Failure:
    """Return why a worker failed: what it told, or Ray's error."""
    with contextlib.suppress(OSError, ValueError):
        told = json.loads((folder / _FAILURE).read_text())
        return Failure(told["problem"], told["remedy"])
    return Failure(
        f"A worker of the cluster failed: {reason_of(error).rstrip('.')}.",
        "Run it again with --debug for the traceback.",
    )


class _Worker:
    """Labels chunks, in a process of a cluster."""

    def __init__(self, chunks: str, request: Request, engine: Engine) -> None:
        self._chunks, self._request, self._engine = Path(chunks), request, engine
        self._format = FILE_FORMATS[request.format](request.model, request.top_k)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        try:
            results = [self._label(int(chunk)) for chunk in batch["id"]]
        except (ClientError, DelugeServeError) as error:
            # Ray passes on the text of an error with its traceback, and not the error.
            told = json.dumps({"problem": error.problem, "remedy": error.remedy})
            with contextlib.suppress(OSError):
                (self._chunks.parent / _FAILURE).write_text(told)
            raise
        columns = {name: [result[name] for result in results] for name in results[0]}
        return {"id": batch["id"], **columns}

    @functools.cached_property
    def _labeller(self) -> Labeller:
        """What labels; Ray passes on the errors of a call, but not those of a constructor."""
        if not self._chunks.is_dir():
            raise Failure(
                f"There is no folder {self._chunks} on {socket.gethostname()}.",
                "Write the --output to a file system that all machines of the cluster reach.",
            )
        labeller = open_labeller(self._engine)
        if not labeller.model.matches(self._request.model):
            raise Failure(
                f"A worker is served {labeller.model} instead of {self._request.model}.",
                "Let all workers reach the same model.",
            )
        return labeller

    def _label(self, chunk: int) -> dict[str, Any]:
        from delugeserve.bulk.sources import open_shards

        counts, rows, encoded = Counts(), [], []

        def write(row: Classification) -> None:
            rows.append(row)
            if len(rows) >= SMALL:
                encoded.append(self._format.encode(rows))
                rows.clear()

        labeller = self._labeller
        label(
            open_shards(read_chunk(self._chunks, chunk), Skipped()),
            labeller,
            write,
            counts,
            top_k=self._request.top_k,
            threshold=self._request.threshold,
        )
        encoded.append(self._format.encode(rows))
        return {
            "rows": b"".join(encoded),
            "answered": counts.answered,
            "refused": counts.refused,
            "below": counts.below,
        }


def _count_done(folder: Path) -> int:
    """Return the number of chunks that are done."""
    try:
        names = [path.name for path in (folder / "checkpoint").iterdir()]
    except FileNotFoundError:
        return 0
    return sum(name.endswith(".parquet") and ".pending." not in name for name in names)


def _parts(folder: Path) -> list[Path]:
    """Return the files with the rows of chunks."""
    return list((folder / "parts").glob("*.parquet"))


@contextlib.contextmanager
def _watch(output: OutputFile, progress: Progress) -> Iterator[None]:
    """Report the chunks that are done."""
    ended = threading.Event()

    def watch() -> None:
        seen = output.saved
        while not ended.wait(_POLL_S):
            done = _count_done(output.folder)
            if done != seen:
                progress.advance(done - seen)
                seen = done

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _join(
    output: OutputFile,
    request: Request,
    chunks: int,
    before: set[Path],
    counts: Counts,
    progress: Progress,
) -> None:
    """Write the output from the rows of all chunks, in their order."""
    parquet = require("pyarrow.parquet", EXTRA)
    progress.stage(f"write {output.path.name}", chunks)
    places: dict[int, Path] = {}
    for path in _parts(output.folder):
        for chunk in parquet.read_table(path, columns=["id"]).column(0).to_pylist():
            places[chunk] = path
    kind = FILE_FORMATS[request.format](request.model, request.top_k)
    missing = next((chunk for chunk in range(chunks) if chunk not in places), None)
    if missing is not None:
        raise Failure(
            f"The rows of chunk {missing:,} are missing from {output.folder / 'parts'}.",
            "Start again with --overwrite.",
        )
    with atomic_write(output.log, "join", sync=True) as beside, beside.open("wb") as file:
        file.write(kind.header())
        for chunk in range(chunks):
            table = parquet.read_table(places[chunk], filters=[("id", "=", chunk)])
            (row,) = table.to_pylist()
            file.write(row["rows"])
            counts.answered += row["answered"]
            counts.refused += row["refused"]
            counts.below += row["below"]
            if places[chunk] in before:
                counts.resumed += row["answered"] + row["refused"]
            progress.advance()
    if not kind.finished:
        kind.finish(output.log, output.path)
