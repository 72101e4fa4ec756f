"""Frozen dataclasses to JSON and back, checked against their type hints."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Return a dataclass as plain JSON values: objects, arrays, strings, numbers, booleans, null.

    Args:
        value: a dataclass whose fields are dataclasses, mappings, tuples and JSON scalars. Keys of
            mappings become strings.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: to_json(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def from_json(kind: type[T], value: Any) -> T:
    """Return the dataclass that :func:`to_json` made ``value`` from.

    Args:
        kind: the dataclass.
        value: what ``json.loads`` returned.

    Raises:
        ValueError: a field is missing, unknown or of another type; the message gives its path.
    """
    return cast("T", _decode(kind, value, kind.__name__))


def _decode(kind: Any, value: Any, path: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _decode_union(arguments, value, path)
    if origin is Literal:
        if not any(value == known and type(value) is type(known) for known in arguments):
            raise ValueError(f"{path} is {value!r}, not one of {arguments}")
        return value
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, path)
    if origin is tuple:
        return _decode_tuple(arguments, value, path)
    if origin is Mapping:
        return _decode_mapping(arguments, value, path)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{path} is {value!r}, not a value of type {kind.__name__}")
    return value


def _decode_union(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    errors = []
    for kind in kinds:
        try:
            return _decode(kind, value, path)
        except ValueError as error:
            errors.append(str(error))
    raise ValueError(errors[0])


def _decode_dataclass(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{path} is {value!r}, not an object")
    hints = _hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in value:
        if name not in fields:
            raise ValueError(f"{path} has an unknown field '{name}'")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING
        if required and field.default_factory is dataclasses.MISSING and name not in value:
            raise ValueError(f"{path} lacks the field '{name}'")
    return kind(
        **{name: _decode(hints[name], item, f"{path}.{name}") for name, item in value.items()}
    )


def _decode_tuple(kinds: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{path} is {value!r}, not an array")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"{path} has {len(value)} items, not {len(kinds)}")
    return tuple(
        _decode(kind, item, f"{path}[{place}]")
        for place, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _decode_mapping(kinds: tuple[Any, ...], value: Any, path: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{path} is {value!r}, not an object")
    key_kind, item_kind = kinds
    return {
        _decode(key_kind, int(key) if key_kind is int else key, path): _decode(
            item_kind, item, f"{path}.{key}"
        )
        for key, item in value.items()
    }


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
