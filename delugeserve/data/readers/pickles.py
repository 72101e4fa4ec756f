"""An unpickler for plain containers and uint8 arrays that runs no code of the pickle's choice.

A pickle is a program that may call any function it names. Here the few names that pickled arrays
use resolve to replacements of ours that only store data; every other name is refused. NumPy sees
nothing from the pickle that was not checked.
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
    """Replaces ``numpy.dtype``; for bytes only its name matters."""

    def __init__(self, name: object, *_: object) -> None:
        self.name = name.decode("latin-1") if isinstance(name, bytes) else name

    def __setstate__(self, state: object) -> None:
        pass


class _Array:
    """Replaces ``numpy.ndarray`` and the function that creates one."""

    def __init__(self, *_: object) -> None:
        self.array: NDArray[np.uint8] | None = None

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise pickle.UnpicklingError("it has an array with an invalid state")
        _, shape, dtype, in_columns, raw = state
        self.array = _to_array(raw, dtype, shape, "F" if in_columns else "C")


class _Buffer(_Array):
    """Replaces the function that pickle protocol 5 creates arrays with."""

    def __init__(self, raw: object, dtype: object, shape: object, order: object) -> None:
        self.array = _to_array(raw, dtype, shape, "F" if order == "F" else "C")


class _Encoded(bytes):
    """Replaces ``_codecs.encode``, which protocol 2 uses for bytes."""

    def __new__(cls, text: object, *_: object) -> _Encoded:
        if not isinstance(text, str):
            raise pickle.UnpicklingError("it encodes bytes from something other than text")
        return super().__new__(cls, text.encode("latin-1"))


_ALLOWED: dict[tuple[str, str], type] = {
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
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it calls {module}.{name}") from None


def unpickle_table(data: bytes) -> dict[str, Any]:
    """Read a pickled dictionary of lists, strings, numbers and uint8 arrays.

    Args:
        data: the pickle, written by Python 2 or 3.

    Returns:
        The dictionary, with text as keys and ``numpy.ndarray`` as arrays.

    Raises:
        pickle.UnpicklingError: the pickle is damaged, or contains or calls anything else. The
            message is a clause that begins with "it".
    """
    try:
        _check_opcodes(data)
        table = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a damaged pickle makes the module raise nearly anything
        raise pickle.UnpicklingError("it is damaged or truncated") from error
    if not isinstance(table, dict):
        raise pickle.UnpicklingError("it does not contain a dictionary")
    return {_text(key): _unwrap(value) for key, value in table.items()}


def _check_opcodes(data: bytes) -> None:
    """Refuse opcodes that allocate more memory than the pickle is long."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name.endswith("PUT") and isinstance(argument, int) and argument > len(data):
            raise pickle.UnpicklingError("it has an invalid memo index")


def _to_array(raw: object, dtype: object, shape: object, order: Any) -> NDArray[np.uint8]:
    if not (isinstance(dtype, _Dtype) and dtype.name in _BYTE_TYPES):
        raise pickle.UnpicklingError("it has an array of another type than uint8")
    if not isinstance(raw, (bytes, bytearray)):
        raise pickle.UnpicklingError("it has an array without bytes")
    if not (isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape)):
        raise pickle.UnpicklingError("it has an array without a valid shape")
    return np.frombuffer(raw, np.uint8).reshape(shape, order=order)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _unwrap(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.array is None:
            raise pickle.UnpicklingError("it has an array without content")
        return value.array
    return value
