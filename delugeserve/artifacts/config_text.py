"""Change values in the text of a ``config.pbtxt`` and leave everything else as it was written.

Comments, layout, order, and fields that this release does not know stay.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from typing import Any

from delugeserve.artifacts.config_message import (
    is_map,
    is_repeated,
    items,
    message_text,
    names_of,
    set_items,
)
from delugeserve.artifacts.config_syntax import Entry, TextEditError, Value, find_fields
from delugeserve.system.imports import require


def edit_text(text: str, found: Any, target: Any) -> str:
    """Return a text that parses to ``target``, with as few changes as possible.

    Args:
        text: text format.
        found: the protobuf message that it parses to; unknown fields ignored.
        target: a message of the same type.

    Raises:
        TextEditError: the text cannot be edited in place.
    """
    editor = _Editor(text)
    editor.message(find_fields(text), found, target, None)
    edited = editor.apply()
    text_format = require("google.protobuf.text_format", "export")
    try:
        parsed = text_format.Parse(edited, type(target)(), allow_unknown_field=True)
    except text_format.ParseError as error:
        raise TextEditError(str(error)) from error
    if parsed != target:
        raise TextEditError("the edited text has other values than intended")
    return edited


class _Editor:
    """Collects changes of a text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._edits: list[tuple[int, int, str]] = []

    def apply(self) -> str:
        """Return the changed text."""
        text = self._text
        # Of insertions at one place the later one follows the earlier one.
        for start, end, new in sorted(self._edits, key=lambda edit: edit[:2])[::-1]:
            text = text[:start] + new + text[end:]
        return text

    def message(self, entries: list[Entry], found: Any, target: Any, value: Value | None) -> None:
        """Change the fields of a message whose values differ.

        Args:
            entries: its fields in the text.
            found: their values.
            target: the values that they are to have.
            value: where the message is in the text; None for the whole text.
        """
        for descriptor in found.DESCRIPTOR.fields:
            old, new = items(found, descriptor), items(target, descriptor)
            if old == new:
                continue
            mine = [entry for entry in entries if entry.name == descriptor.name]
            values = [one for entry in mine for one in entry.values]
            insert = self._inserter(value, mine or entries, target, descriptor)
            if is_map(descriptor):
                self._map(descriptor, mine, values, found, dict(old), dict(new), insert)
            elif descriptor.message_type is not None:
                self._messages(descriptor, mine, values, old, new, insert)
            elif is_repeated(descriptor):
                self._replace(mine, new, insert)
            elif values and new:
                text = _as_text(target, descriptor, new).partition(":")[2].strip()
                self._edits.append((values[-1].start, values[-1].end, text))
            else:
                self._replace(mine, new, insert)

    def _messages(
        self,
        descriptor: Any,
        mine: list[Entry],
        values: list[Value],
        old: list[Any],
        new: list[Any],
        insert: Callable[[list[Any]], None],
    ) -> None:
        """Change messages in place, matched by name or by position."""
        if len(values) != len(old):
            raise TextEditError("a field is written twice")
        names, wanted = names_of(old, descriptor), names_of(new, descriptor)
        if names is None or wanted is None:
            if len(old) != len(new):
                self._replace(mine, new, insert)
                return
            names = wanted = list(map(str, range(len(old))))
        pairs = dict(zip(names, zip(values, old, strict=True), strict=True))
        kept = [name for name in names if name in wanted]
        if [*kept, *(name for name in wanted if name not in pairs)] != wanted:  # another order
            self._replace(mine, new, insert)
            return
        for name, one in zip(wanted, new, strict=True):
            if name in pairs:
                value, before = pairs[name]
                self.message(value.entries or [], before, one, value)
        self._delete_values(mine, [pairs[name][0] for name in names if name not in wanted])
        insert([one for name, one in zip(wanted, new, strict=True) if name not in pairs])

    def _map(
        self,
        descriptor: Any,
        mine: list[Entry],
        values: list[Value],
        found: Any,
        old: dict[Any, Any],
        new: dict[Any, Any],
        insert: Callable[[list[Any]], None],
    ) -> None:
        """Change the entries of a map in place, matched by key."""
        text_format = require("google.protobuf.text_format", "export")
        gone, seen = [], set()
        for value in values:
            parsed = type(found)()
            snippet = self._text[value.start : value.end]
            text_format.Parse(f"{descriptor.name} {snippet}", parsed, allow_unknown_field=True)
            (key,) = getattr(parsed, descriptor.name)
            if key in seen:
                raise TextEditError(f"the key {key} is written twice")
            seen.add(key)
            if key not in new or old[key] != new[key]:
                gone.append(value)
        self._delete_values(mine, gone)
        insert([(key, one) for key, one in new.items() if key not in old or old[key] != one])

    def _delete_values(self, mine: list[Entry], gone: list[Value]) -> None:
        """Delete some values of a field, and the whole field where none is left."""
        for entry in mine:
            left = [value for value in entry.values if value not in gone]
            if not left:
                self._delete(entry.start, entry.end)
                continue
            for value in entry.values:
                if value in gone:
                    # With the comma after it, or with the one before it at the end of the list.
                    comma = re.compile(r"\s*,").match(self._text, value.end)
                    if comma:
                        self._delete(value.start, comma.end())
                    else:
                        before = self._text.rindex(",", 0, value.start)
                        self._edits.append((before, before + 1, ""))
                        self._delete(value.start, value.end)

    def _replace(
        self, mine: list[Entry], new: list[Any], insert: Callable[[list[Any]], None]
    ) -> None:
        for entry in mine:
            self._delete(entry.start, entry.end)
        insert(new)

    def _delete(self, start: int, end: int) -> None:
        """Delete a part of the text, with its line if nothing else is on it."""
        line = self._text.rfind("\n", 0, start) + 1
        rest = re.compile(r"[ \t\r]*\n").match(self._text, end)
        if not self._text[line:start].strip() and rest:
            start, end = line, rest.end()
        self._edits.append((start, end, ""))

    def _inserter(
        self, value: Value | None, after: list[Entry], target: Any, descriptor: Any
    ) -> Callable[[list[Any]], None]:
        """Return a function that writes values behind some fields, on lines of their own."""

        def insert(new: list[Any]) -> None:
            if not new:
                return
            first = 0 if value is None else value.start + 1
            behind = max((entry.end for entry in after), default=first)
            place = self._end_of_line(behind)
            if place is None:
                one_line = _as_text(target, descriptor, new, as_one_line=True)
                self._edits.append((behind, behind, f" {one_line} "))
                return
            indent = ""
            if value is not None:
                indent = self._indent(after[-1].start) if after else self._inside(value.start)
            text = textwrap.indent(_as_text(target, descriptor, new), indent)
            start = "" if place == 0 or self._text[place - 1] == "\n" else "\n"
            self._edits.append((place, place, start + text))

        return insert

    def _end_of_line(self, place: int) -> int | None:
        """Return the start of the next line if at most a comment follows on this one."""
        rest = re.compile(r"[ \t\r]*(?:#[^\n]*)?(?:\n|$)").match(self._text, place)
        return rest.end() if rest else None

    def _inside(self, brace: int) -> str:
        """Return the indentation of fields in a message that has none yet."""
        line = self._text.rfind("\n", 0, brace) + 1
        spaces = re.compile(r"[ \t]*").match(self._text, line)
        return f"{spaces[0] if spaces else ''}  "

    def _indent(self, place: int) -> str:
        line = self._text.rfind("\n", 0, place) + 1
        before = self._text[line:place]
        return before if not before.strip() else ""


def _as_text(message: Any, descriptor: Any, values: list[Any], *, as_one_line: bool = False) -> str:
    """Return a field with some values in text format."""
    part = type(message)()
    set_items(part, descriptor, values)
    return message_text(part, as_one_line=as_one_line)
