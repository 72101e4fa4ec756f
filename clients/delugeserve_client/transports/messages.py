"""Requests and replies, whatever protocol carries them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Buffer: TypeAlias = "bytes | memoryview"
Value: TypeAlias = "npt.NDArray[Any] | list[list[bytes]]"

_LENGTH = struct.Struct("<I")
_DTYPES: Mapping[str, npt.DTypeLike] = {"FP32": "<f4", "UINT8": "u1", "INT64": "<i8"}


@dataclass(frozen=True)
class Form:
    """What many requests have in common, so that it is encoded once.

    Attributes:
        model: name of the model.
        version: its version; empty leaves the choice to the server.
        input: name of the input.
        dtype: its type in Triton's words: ``UINT8`` or ``BYTES``.
        shape: its shape.
        outputs: names of the outputs wanted, each with the number of classes to return as strings
            (Triton's classification extension), or 0 for the values.
        on_error: the parameter of this name for models that take encoded images; empty for none.
    """

    model: str
    version: str
    input: str
    dtype: str
    shape: tuple[int, ...]
    outputs: tuple[tuple[str, int], ...]
    on_error: str = ""


@dataclass(eq=False)
class Request:
    """One inference.

    Attributes:
        form: what it has in common with others.
        parts: the input's bytes, in Triton's binary form.
        headers: headers of this request alone, for traces.
        notes: what an observer keeps with it.
    """

    form: Form
    parts: Sequence[Buffer]
    headers: Mapping[str, str] = field(default_factory=dict)
    notes: Any = None

    @property
    def nbytes(self) -> int:
        """Number of bytes of the input."""
        return sum(len(part) for part in self.parts)


@dataclass(frozen=True)
class Reply:
    """The answer to a request.

    Attributes:
        version: the version that answered.
        outputs: each output by name: an array, or for BYTES a list of rows.
    """

    version: str
    outputs: Mapping[str, Value]


def pixel_request(
    model: str,
    version: str,
    name: str,
    batch: npt.NDArray[np.uint8],
    outputs: Mapping[str, int],
) -> Request:
    """Return the request that sends prepared images.

    Args:
        model: name of the model.
        version: its version, or empty.
        name: name of the input.
        batch: uint8 ``[N, H, W, 3]``.
        outputs: see :class:`Form`.
    """
    contiguous = np.ascontiguousarray(batch)
    form = Form(model, version, name, "UINT8", batch.shape, tuple(outputs.items()))
    return Request(form, (contiguous.data.cast("B") if contiguous.size else b"",))


def image_request(
    model: str, version: str, name: str, images: Sequence[bytes], outputs: Mapping[str, int]
) -> Request:
    """Return the request that sends encoded images, one per row.

    Args:
        model: name of the model that takes them.
        version: its version, or empty.
        name: name of the input.
        images: contents of image files.
        outputs: see :class:`Form`.
    """
    form = Form(model, version, name, "BYTES", (len(images), 1), tuple(outputs.items()), "return")
    parts: list[Buffer] = []
    for image in images:
        parts += (_LENGTH.pack(len(image)), image)
    return Request(form, parts)


def read_reply(
    form: Form, version: str, outputs: Iterable[tuple[str, str, Sequence[int], Buffer]]
) -> Reply:
    """Return a reply that has all that was asked for.

    Args:
        form: the request's form.
        version: the version that answered.
        outputs: name, type, shape and bytes of each output, in Triton's words and binary form.

    Raises:
        ValueError: an output is missing or damaged, or has another number of rows than the request.
    """
    found = {name: _read(dtype, shape, content) for name, dtype, shape, content in outputs}
    for name, classes in form.outputs:
        value = found.get(name)
        if value is None or (classes and not isinstance(value, list)):
            raise ValueError(f"it has no output '{name}' of the kind asked for")
        if len(value) != form.shape[0]:
            raise ValueError(f"'{name}' has {len(value)} rows, not {form.shape[0]}")
    return Reply(version, found)


def _read(dtype: str, shape: Sequence[int], content: Buffer) -> Value:
    if len(shape) != 2:
        raise ValueError(f"an output has the shape {list(shape)}")
    rows, width = shape
    if dtype == "BYTES":
        return _read_rows(rows, width, bytes(content))
    if dtype not in _DTYPES:
        raise ValueError(f"an output has the type {dtype}")
    values: npt.NDArray[Any] = np.frombuffer(content, _DTYPES[dtype])
    return values.reshape(rows, width)


def _read_rows(rows: int, width: int, content: bytes) -> list[list[bytes]]:
    values, place = [], 0
    while place + _LENGTH.size <= len(content):
        (length,) = _LENGTH.unpack_from(content, place)
        place += _LENGTH.size
        values.append(content[place : place + length])
        place += length
    if width < 1 or len(values) != rows * width or place != len(content):
        raise ValueError("an output has another number of strings than its shape")
    return [values[start : start + width] for start in range(0, len(values), width)]
