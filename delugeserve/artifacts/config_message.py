"""Triton's protobuf message of ``config.pbtxt``: its fields by name, and their text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from delugeserve.system.imports import require

Message = TypeVar("Message")


def parse(text: str) -> Any:
    """Parse a configuration into Triton's protobuf message; unknown fields are left out.

    Raises:
        google.protobuf.text_format.ParseError: it is not a configuration.
    """
    pb = require("tritonclient.grpc.model_config_pb2", "export")
    text_format = require("google.protobuf.text_format", "export")
    return text_format.Parse(text, pb.ModelConfig(), allow_unknown_field=True)


def message_text(message: Any, *, as_one_line: bool = False) -> str:
    """Return a message in text format."""
    text_format = require("google.protobuf.text_format", "export")
    text: str = text_format.MessageToString(message, as_one_line=as_one_line, as_utf8=True)
    return text


def field_text(value: Any) -> str:
    """Return the value of a field in text format, on one line; messages are in braces."""
    if not hasattr(value, "DESCRIPTOR"):
        return f'"{value}"' if isinstance(value, str) else str(value)
    # The value of a parameter has one field; its braces say nothing.
    fields = value.DESCRIPTOR.fields
    if len(fields) == 1 and fields[0].name == "string_value":
        return f'"{value.string_value}"'
    inside = message_text(value, as_one_line=True).strip()
    return f"{{ {inside} }}" if inside else "{ }"


def describe(message: Any) -> dict[str, str]:
    """Return the fields of a message that are set, in text format on one line each, by place."""
    facts: dict[str, str] = {}
    for descriptor in message.DESCRIPTOR.fields:
        values = items(message, descriptor)
        names = names_of(values, descriptor)
        if not values:
            continue
        if is_map(descriptor):
            for key, value in values:
                facts[f'{descriptor.name}["{key}"]'] = field_text(value)
        elif names:
            for name, value in zip(names, values, strict=True):
                facts[f'{descriptor.name}["{name}"]'] = field_text(value)
        else:
            facts[descriptor.name] = " ".join(field_text(value) for value in values)
    return facts


def copy(message: Message) -> Message:
    """Return a copy of a message, which stays when its parent changes."""
    copied: Message = type(message)()
    copied.CopyFrom(message)  # type: ignore[attr-defined]
    return copied


def is_repeated(descriptor: Any) -> bool:
    """Whether a field has many values; protobuf before 6.30 has no property for it."""
    repeated = getattr(descriptor, "is_repeated", None)
    if repeated is None:
        repeated = descriptor.label == descriptor.LABEL_REPEATED
    return bool(repeated)


def is_map(descriptor: Any) -> bool:
    """Whether a field is a map."""
    kind = descriptor.message_type
    return kind is not None and bool(kind.GetOptions().map_entry)


def items(message: Any, descriptor: Any) -> list[Any]:
    """Return a field's values; none for an absent field, and ``(key, value)`` pairs of a map."""
    value = getattr(message, descriptor.name)
    if is_map(descriptor):
        return [(key, value[key]) for key in sorted(value)]
    if is_repeated(descriptor):
        return list(value)
    if descriptor.message_type is not None:
        return [value] if message.HasField(descriptor.name) else []
    return [value] if value != descriptor.default_value else []


def set_items(message: Any, descriptor: Any, values: Sequence[Any]) -> None:
    """Set a field to the values that :func:`items` returned."""
    message.ClearField(descriptor.name)
    if not values:
        return
    target = getattr(message, descriptor.name)
    if is_map(descriptor):
        for key, value in values:
            if hasattr(value, "DESCRIPTOR"):
                target[key].CopyFrom(value)
            else:
                target[key] = value
    elif is_repeated(descriptor):
        target.extend(values)
    elif descriptor.message_type is not None:
        target.CopyFrom(values[0])
        target.SetInParent()
    else:
        setattr(message, descriptor.name, values[0])


def names_of(values: Sequence[Any], descriptor: Any) -> list[str] | None:
    """Return the names of repeated messages; None if they have none that identify them."""
    kind = descriptor.message_type
    if is_map(descriptor) or kind is None or "name" not in kind.fields_by_name:
        return None
    names = [value.name for value in values]
    return names if all(names) and len(set(names)) == len(names) else None
