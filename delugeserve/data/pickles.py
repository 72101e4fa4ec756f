"""Unpickling plain containers and arrays, and nothing else.

A pickle is a program that may call whatever it names. The one here finds, under the few names that
pickled arrays use, stand-ins of ours that only take data in; every other name is refused. Neither
numpy nor any other library sees what the pickle says before it was checked.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BYTE_TYPES = ("u1", "uint8")


class _Dtype:
    """Stands in for ``numpy.dtype``; the rest of its state says nothing about bytes."""

    def __init__(self, name: object, *_: object) -> None:
        self.name = name.decode("latin-1") if isinstance(name, bytes) else name

    def __setstate__(self, state: object) -> None:
        pass


class _Array:
    """Stands in for ``numpy.ndarray`` and for the function that begins one."""

    def __init__(self, *_: object) -> None:
        self.array: NDArray[np.uint8] | None = None

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise pickle.UnpicklingError("the array's state has another form")
        _, shape, dtype, in_columns, raw = state
        self.array = _to_array(raw, dtype, shape, "F" if in_columns else "C")


class _Buffer(_Array):
    """Stands in for the function that pickle protocol 5 makes arrays with."""

    def __init__(self, raw: object, dtype: object, shape: object, order: object) -> None:
        self.array = _to_array(raw, dtype, shape, "F" if order == "F" else "C")


class _Encoded(bytes):
    """Stands in for ``_codecs.encode``, by which protocol 2 spells bytes."""

    def __new__(cls, text: object, *_: object) -> _Encoded:
        if not isinstance(text, str):
            raise pickle.UnpicklingError("bytes are spelt by something other than text")
        return super().__new__(cls, text.encode("latin-1"))


_ADMITTED: dict[tuple[str, str], type] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _Buffer,
    ("numpy._core.numeric", "_frombuffer"): _Buffer,
    ("_codecs", "encode"): _Encoded,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def unpickle_table(data: bytes) -> dict[str, Any]:
    """Read a pickled dictionary of lists, strings, numbers and uint8 arrays.

    Args:
        data: the pickle, of Python 2 or 3.

    Returns:
        The dictionary, its keys as text, its arrays as ``numpy.ndarray``.

    Raises:
        pickle.UnpicklingError: the pickle is damaged, or holds or does anything else; the message
            goes on from "because".
    """
    try:
        _check_opcodes(data)
        table = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a damaged pickle makes the module raise nearly anything
        raise pickle.UnpicklingError("it is damaged or truncated") from error
    if not isinstance(table, dict):
        raise pickle.UnpicklingError("it holds no dictionary")
    return {_text(key): _unwrap(value) for key, value in table.items()}


def _check_opcodes(data: bytes) -> None:
    """Refuse what would make the module set memory aside for more than the pickle holds."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name.endswith("PUT") and isinstance(argument, int) and argument > len(data):
            raise pickle.UnpicklingError("it numbers objects that it cannot have")


def _to_array(raw: object, dtype: object, shape: object, order: Any) -> NDArray[np.uint8]:
    if not (isinstance(dtype, _Dtype) and dtype.name in _BYTE_TYPES):
        raise pickle.UnpicklingError("its array holds other than bytes")
    if not isinstance(raw, (bytes, bytearray)):
        raise pickle.UnpicklingError("its array's content is not bytes")
    if not (isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape)):
        raise pickle.UnpicklingError("its array has no shape")
    return np.frombuffer(raw, np.uint8).reshape(shape, order=order)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _unwrap(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.array is None:
            raise pickle.UnpicklingError("its array is empty")
        return value.array
    return value
