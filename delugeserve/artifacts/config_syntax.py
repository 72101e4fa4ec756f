"""Where the fields, values and comments of a ``config.pbtxt`` are in its text.

The format is protobuf's text format: https://protobuf.dev/reference/protobuf/textformat-spec/
protobuf's own parser returns the values only, not their places.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<mark>[{}<>\[\]:,;])
      | (?P<word>[^\s{}<>\[\]:,;\#"']+)""",
    re.VERBOSE,
)
_CLOSING = {"{": "}", "<": ">"}


class TextEditError(ValueError):
    """The text cannot be edited in place."""


@dataclass
class Value:
    """A value of a field: a scalar, or a message with entries.

    Attributes:
        start: of its text.
        end: of its text.
        entries: the fields of a message; None for a scalar.
    """

    start: int
    end: int
    entries: list[Entry] | None = None


@dataclass
class Entry:
    """A field name with its value, or with a list of values."""

    name: str
    start: int
    end: int = 0
    values: list[Value] = field(default_factory=list)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


class _Parser:
    """Finds where fields and values are in a text."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokenise(text))
        self._place = 0

    def message(self, closing: str | None = None) -> list[Entry]:
        """Parse fields up to a closing bracket, or to the end."""
        entries = []
        while self._peek() != closing:
            entries.append(self._entry())
        return entries

    def _peek(self) -> str | None:
        """Return the next token's text, where that is a mark; None at the end."""
        if self._place == len(self._tokens):
            return None
        token = self._tokens[self._place]
        return token.text if token.kind == "mark" else ""

    def _take(self, *marks: str) -> _Token:
        if self._place == len(self._tokens):
            raise TextEditError("the text ends within a field")
        token = self._tokens[self._place]
        if marks and not (token.kind == "mark" and token.text in marks):
            raise TextEditError(f"'{token.text}' is not one of {' '.join(marks)}")
        self._place += 1
        return token

    def _entry(self) -> Entry:
        first = self._take()
        if first.text == "[":  # an extension's name
            while self._take().text != "]":
                pass
        elif first.kind != "word":
            raise TextEditError(f"'{first.text}' is not a field name")
        entry = Entry(first.text, first.start)
        if self._peek() == ":":
            self._take()
        if self._peek() == "[":
            self._take()
            while self._peek() != "]":
                entry.values.append(self._value())
                if self._peek() == ",":
                    self._take()
            entry.end = self._take("]").end
        else:
            entry.values.append(self._value())
            entry.end = entry.values[0].end
        if self._peek() in (",", ";"):
            entry.end = self._take().end
        return entry

    def _value(self) -> Value:
        first = self._take()
        if first.text in _CLOSING and first.kind == "mark":
            entries = self.message(_CLOSING[first.text])
            return Value(first.start, self._take(_CLOSING[first.text]).end, entries)
        if first.kind == "mark":
            raise TextEditError(f"'{first.text}' is not a value")
        end = self._take().end if first.text == "-" else first.end
        # Adjacent strings are one value.
        while (
            first.kind == "string"
            and self._place < len(self._tokens)
            and self._tokens[self._place].kind == "string"
        ):
            end = self._take().end
        return Value(first.start, end)


def _scan(text: str) -> Iterator[re.Match[str]]:
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise TextEditError(f"{text[place : place + 20]!r} is not text format")
        yield match
        place = match.end()


def _tokenise(text: str) -> Iterator[_Token]:
    for match in _scan(text):
        if match.lastgroup != "space":
            yield _Token(str(match.lastgroup), match.group(), *match.span())


def find_fields(text: str) -> list[Entry]:
    """Return the top-level fields of a text, in order.

    Raises:
        TextEditError: the text cannot be parsed.
    """
    return _Parser(text).message()


def unknown_fields(text: str, message: Any) -> dict[str, str]:
    """Return the fields that a message type does not have, as they are written, by their place.

    None are found in a text that cannot be parsed; see :func:`find_unknown_fields`.
    """
    try:
        return find_unknown_fields(text, message)
    except TextEditError:
        return {}


def find_unknown_fields(text: str, message: Any) -> dict[str, str]:
    """Return the fields that a message type does not have, as they are written, by their place.

    Raises:
        TextEditError: the text cannot be parsed.
    """
    return {
        place: " ".join(text[value.start : value.end] for value in entry.values)
        for place, entry in _find_unknown(find_fields(text), message.DESCRIPTOR, "")
    }


def _find_unknown(
    entries: list[Entry], descriptor: Any, prefix: str
) -> Iterator[tuple[str, Entry]]:
    for entry in entries:
        known = descriptor.fields_by_name.get(entry.name)
        if known is None:
            yield prefix + entry.name, entry
        elif known.message_type is not None:
            for value in entry.values:
                yield from _find_unknown(
                    value.entries or [], known.message_type, f"{prefix}{entry.name}."
                )


def comments(text: str) -> tuple[str, ...]:
    """Return the comments of a text, in order.

    Raises:
        TextEditError: the text cannot be parsed.
    """
    return tuple(match.group().strip() for match in _scan(text) if match.group().startswith("#"))
