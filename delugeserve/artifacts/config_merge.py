"""Merge what a person wrote into ``config.pbtxt`` with what the next export generates.

Three configurations are compared field by field: what the last export generated, the file as it is
now, and what this export generates. A value that differs from what was generated is the person's.
It is kept, unless it contradicts the new artefact: see :mod:`delugeserve.artifacts.config_rules`.
The text is edited in place, so comments and unknown fields stay as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from delugeserve.artifacts.config_message import (
    describe,
    is_map,
    is_repeated,
    items,
    message_text,
    names_of,
    parse,
    set_items,
)
from delugeserve.artifacts.config_rules import Artefact, ReplacedSetting, apply_rules, lower_warmup
from delugeserve.artifacts.config_syntax import (
    TextEditError,
    comments,
    find_unknown_fields,
    unknown_fields,
)
from delugeserve.artifacts.config_text import edit_text


@dataclass(frozen=True)
class KeptSetting:
    """A setting that was kept, though an export generates another one or none.

    Attributes:
        field: its place, such as ``instance_group`` or ``parameters["intra_op_thread_count"]``.
        value: in text format; empty for a field that was removed by hand.
    """

    field: str
    value: str


@dataclass(frozen=True)
class ConfigMerge:
    """A configuration that keeps the settings written by hand.

    Attributes:
        text: the new ``config.pbtxt``.
        kept: settings of the file that were kept.
        replaced: settings of the file that contradict the new artefact.
        lost: comments and unknown fields of the file that are not in ``text``.
    """

    text: str
    kept: tuple[KeptSetting, ...] = ()
    replaced: tuple[ReplacedSetting, ...] = ()
    lost: tuple[str, ...] = ()


def merge_config(
    text: str, generated_before: str | None, generated: str, artefact: Artefact
) -> ConfigMerge:
    """Merge a configuration with a newly generated one.

    Args:
        text: the file as it is.
        generated_before: what the last export generated; None if that is not known. Then every
            setting of the file that the artefact allows is kept.
        generated: what this export generates.
        artefact: what the result must agree with.

    Raises:
        google.protobuf.text_format.ParseError: ``text`` is not a configuration.
    """
    found, new = parse(text), parse(generated)
    before = None if generated_before is None else parse(generated_before)
    if before is not None and 1 <= found.max_batch_size < before.max_batch_size:
        # The last export may have found the batch size lowered, and adapted the warm-up.
        lowered = parse(generated_before or "")
        lower_warmup(lowered, found.max_batch_size)
        both = (*before.model_warmup, *lowered.model_warmup)
        if all((one in found.model_warmup) == (one in lowered.model_warmup) for one in both):
            before = lowered
    base = type(new)() if before is None else before
    merged = _merge(base, found, new)
    if 1 <= merged.max_batch_size < new.max_batch_size:
        lower_warmup(new, merged.max_batch_size)
        merged = _merge(base, found, new)
    replaced = apply_rules(merged, before, found, new, artefact)
    written, generates = describe(merged), describe(new)
    kept = [
        KeptSetting(name, written.get(name, ""))
        for name in dict.fromkeys((*written, *generates))
        if written.get(name) != generates.get(name)
    ]
    edited, lost = write_in_place(text, found, merged)
    unknown = [KeptSetting(name, value) for name, value in unknown_fields(edited, new).items()]
    return ConfigMerge(edited, (*kept, *unknown), replaced, lost)


def write_in_place(text: str, found: Any, merged: Any) -> tuple[str, tuple[str, ...]]:
    """Return a text with other values, and what of the old text is lost.

    Args:
        text: the text.
        found: the protobuf message that it parses to.
        merged: the values that it is to have.

    Returns:
        The new text, and the comments and unknown fields of the old one that are not in it.
    """
    try:
        edited = edit_text(text, found, merged)
        left = list(comments(edited))
        lost = []
        for comment in comments(text):
            if comment in left:
                left.remove(comment)
            else:
                lost.append(comment)
        return edited, tuple(lost)
    except TextEditError:
        written = message_text(merged)
        try:
            return written, (*comments(text), *find_unknown_fields(text, found))
        except TextEditError:
            return written, ("comments and unknown fields",)


def _merge(before: Any, found: Any, new: Any) -> Any:
    """Return a message with the new values of the fields that were not edited."""
    merged = type(new)()
    chosen: dict[str, Any] = {}  # fields of oneofs, and the message whose choice is taken
    for oneof in new.DESCRIPTOR.oneofs:
        choices = {message.WhichOneof(oneof.name) for message in (before, found, new)}
        if len(choices) > 1:
            edited = _choice(before, oneof.name) != _choice(found, oneof.name)
            chosen |= dict.fromkeys((one.name for one in oneof.fields), found if edited else new)
    for descriptor in new.DESCRIPTOR.fields:
        values: Sequence[Any]
        if descriptor.name in chosen:
            values = items(chosen[descriptor.name], descriptor)
        else:
            values = _merge_items(
                descriptor, *(items(message, descriptor) for message in (before, found, new))
            )
        set_items(merged, descriptor, values)
    return merged


def _choice(message: Any, oneof: str) -> tuple[str | None, Any]:
    name = message.WhichOneof(oneof)
    return name, getattr(message, name) if name else None


def _merge_items(
    descriptor: Any, before: Sequence[Any], found: Sequence[Any], new: Sequence[Any]
) -> Sequence[Any]:
    """Merge the values of one field: by key or name where there are any, else as a whole."""
    if is_map(descriptor):
        return list(_merge_named(dict(before), dict(found), dict(new)).items())
    if descriptor.message_type is not None and not is_repeated(descriptor):
        if found and new:
            return [_merge(before[0] if before else type(new[0])(), found[0], new[0])]
    elif descriptor.message_type is not None:
        names = [names_of(values, descriptor) for values in (before, found, new)]
        if None not in names:
            named = [
                dict(zip(known or (), values, strict=True))
                for known, values in zip(names, (before, found, new), strict=True)
            ]
            return list(_merge_named(*named).values())
    return new if list(found) == list(before) else found


def _merge_named(
    before: Mapping[str, Any], found: Mapping[str, Any], new: Mapping[str, Any]
) -> dict[str, Any]:
    """Merge values by name, in the order of the file; new ones follow."""
    merged: dict[str, Any] = {}
    if before and not found:  # all were removed by hand
        return merged
    for name in dict.fromkeys((*found, *new)):
        if name in found and name in new and hasattr(new[name], "DESCRIPTOR"):
            empty = type(new[name])()
            merged[name] = _merge(before.get(name, empty), found[name], new[name])
            continue
        edited = found.get(name) != before.get(name)
        value = found.get(name) if edited else new.get(name)
        if value is not None:
            merged[name] = value
    return merged
