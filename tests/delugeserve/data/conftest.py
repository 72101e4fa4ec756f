"""Images on disk, in the layouts that the readers know."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from delugeserve.zoo import CIFAR10

WriteParquet = Callable[..., Path]
WriteImage = Callable[[Path, NDArray[np.uint8]], Path]


@pytest.fixture(scope="session")
def pixels() -> NDArray[np.uint8]:
    """Twenty images of CIFAR's size, uint8 ``[20, 32, 32, 3]``; the parquet files hold them."""
    return np.random.default_rng(1).integers(0, 256, (20, 32, 32, 3), np.uint8)


@pytest.fixture(scope="session")
def labels() -> NDArray[np.int64]:
    """A label for each of ``pixels``: 0 to 9, twice."""
    return np.arange(20) % 10


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """A function from pixels to the content of an image file, PNG by default."""
    return _encode


@pytest.fixture(scope="session")
def write_image() -> WriteImage:
    """A function that writes pixels to a file, in the format of its suffix."""

    def write(path: Path, image: NDArray[np.uint8]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        return path

    return write


@pytest.fixture(scope="session")
def write_parquet(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> WriteParquet:
    """A function that writes images, encoded or not, and labels to a parquet file."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")

    def write(
        path: Path,
        images: NDArray[np.uint8] | Sequence[bytes | None] = pixels,
        labels: Sequence[int | None] | NDArray[np.int64] = labels,
        *,
        columns: tuple[str, str] = ("image", "label"),
        names: Sequence[str] | None = CIFAR10.class_names,
    ) -> Path:
        encoded = [_encode(image) if isinstance(image, np.ndarray) else image for image in images]
        structs = [{"bytes": data, "path": f"{row}.png"} for row, data in enumerate(encoded)]
        table = pa.table(
            {
                columns[0]: pa.array(
                    structs, pa.struct([("bytes", pa.binary()), ("path", pa.string())])
                ),
                columns[1]: pa.array(labels, pa.int64()),
                "coarse_label": pa.array([0] * len(encoded), pa.int64()),
            }
        )
        if names is not None:
            features = {columns[1]: {"_type": "ClassLabel", "names": list(names)}}
            text = json.dumps({"info": {"features": features}})
            table = table.replace_schema_metadata({"huggingface": text})
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=7)
        return path

    return write


def _encode(image: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind)
    return stream.getvalue()
