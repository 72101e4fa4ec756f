"""Label with an exported version in this process, without a server."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.preprocessing import preprocessing_of
from delugeserve.bulk.items import Item
from delugeserve.bulk.labelling import ModelIdentity, begins_block
from delugeserve.bulk.sources.ahead import load_ahead
from delugeserve.errors import SubjectError
from delugeserve.verification.verify import load_version
from delugeserve_client import Classification, ImageError, Prediction
from delugeserve_client.images.reading import Reader

_LARGEST_BATCH = 64

_DIGEST_LENGTH = 16

_Pixels: TypeAlias = "NDArray[np.uint8] | ImageError"
_Decoded: TypeAlias = tuple[Item, _Pixels]


class InProcessLabeller:
    """Labels with an exported version, loaded in the precision that a server would run it in.

    Args:
        folder: the version's folder.
        max_pixels: the most pixels of an image; None for the client's limit.

    Raises:
        RepositoryError: there is no version, or its runtime cannot load it.
        MissingExtraError: its runtime is not installed.
        SubjectError: it was exported for another preprocessing.
    """

    def __init__(self, folder: Path, max_pixels: int | None = None) -> None:
        manifest, self._infer = load_version(folder)
        task = manifest.network.task
        self._names = task.class_names
        preprocessing = preprocessing_of(task)
        if manifest.preprocessing != preprocessing.digest:
            raise SubjectError(
                f"{folder} was exported for another preprocessing ({manifest.preprocessing}) than "
                f"this release's ({preprocessing.digest}).",
                "Export the model again.",
                str(folder),
                expected=preprocessing.digest,
                found=manifest.preprocessing,
            )
        self._reader = Reader(preprocessing, max_pixels)
        self._batch = min(_LARGEST_BATCH, manifest.max_batch_size)
        digest = manifest.files[manifest.artefact].sha256[:_DIGEST_LENGTH]
        self._model = ModelIdentity(manifest.model, folder.resolve().name, digest)
        self._pool = ThreadPoolExecutor(os.cpu_count(), "decode")

    @property
    def model(self) -> ModelIdentity:
        """The model, as its manifest describes it."""
        return self._model

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self._names)

    def label(self, items: Iterable[Item], top_k: int) -> Iterator[Classification]:
        """Yield one result for each item, in order; see :class:`.Labeller`."""
        for batch in self._batches(self._decode(load_ahead(items))):
            readable = [pixels for _, pixels in batch if not isinstance(pixels, ImageError)]
            rows = iter(self._infer(np.stack(readable))[1] if readable else ())
            for item, pixels in batch:
                if isinstance(pixels, ImageError):
                    yield Classification(item.source, (), pixels)
                else:
                    yield Classification(item.source, self._top(next(rows), top_k))

    def _batches(self, decoded: Iterable[_Decoded]) -> Iterator[list[_Decoded]]:
        """Yield batches that do not cross blocks."""
        batch: list[_Decoded] = []
        last, size = None, 0
        for one in decoded:
            begins = begins_block(one[0], last, size)
            last, size = one[0], 1 if begins else size + 1
            if batch and (begins or len(batch) == self._batch):
                yield batch
                batch = []
            batch.append(one)
        if batch:
            yield batch

    def close(self) -> None:
        """Stop decoding."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _decode(self, items: Iterable[Item]) -> Iterator[_Decoded]:
        """Decode the next batch while the network computes."""
        ahead: deque[Future[_Decoded]] = deque()
        for item in items:
            ahead.append(self._pool.submit(self._prepare, item))
            if len(ahead) > 2 * self._batch:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _prepare(self, item: Item) -> _Decoded:
        if item.error is not None:
            return item, item.error
        read = self._reader.read(item.content, item.source, encoded=False)
        return Item(item.source, shard=item.shard), cast("_Pixels", read.error or read.content)

    def _top(self, probabilities: NDArray[np.float32], top_k: int) -> tuple[Prediction, ...]:
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        return tuple(
            # With six decimals, as Triton sends them.
            Prediction(self._names[index], int(index), float(f"{probabilities[index]:.6f}"))
            for index in order
        )
