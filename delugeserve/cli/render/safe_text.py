"""Text that any terminal or file can take: control characters and missing glyphs are replaced.

File names and class labels may hold any character, also ones that move the cursor, change the
window's title or turn the reading direction. An output's encoding may lack the characters that
tables and bars use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
from rich.segment import Segment

# ASCII and Latin-1 controls, line and paragraph separators, bidirectional overrides, and surrogates
# (bytes of a file name that are not UTF-8).
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_PLAIN: Mapping[str, str] = {
    "━": "=", "─": "-", "╸": "=", "╺": "=", "│": "|", "█": "#", "•": "*", "…": "...", "→": "->",
    "±": "+-", "µ": "u", "✓": "+", "✗": "x",
    "\u00a0": " ", "\u2013": "-", "\u2014": "-", "\u00d7": "x",  # spaces, dashes, times
}  # fmt: skip


def printable(text: str) -> str:
    r"""Return a name or a label with its control characters as escape sequences, on one line.

    A byte of a file name that is not UTF-8 becomes ``\xff``.
    """
    return _CONTROLS.sub(lambda found: _escape(found[0]), text)


def encodable(text: str, encoding: str) -> str:
    """Return text with the characters that an encoding lacks replaced by ASCII."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        plain = "".join(_PLAIN.get(character, character) for character in text)
        return plain.encode(encoding, "backslashreplace").decode(encoding)
    return text


class SafeText(RenderHook):
    """Makes everything that a console prints safe; line breaks and tabs stay."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Wrap what is about to be rendered."""
        return [_Safe(renderable, self._console.encoding) for renderable in renderables]


class _Safe:
    def __init__(self, renderable: ConsoleRenderable, encoding: str) -> None:
        self._renderable = renderable
        self._encoding = encoding

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self._renderable, options):
            if segment.control:
                yield segment
            else:
                text = _CONTROLS.sub(_escape_unless_layout, segment.text)
                yield Segment(encodable(text, self._encoding), segment.style)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def _escape_unless_layout(found: re.Match[str]) -> str:
    return found[0] if found[0] in "\n\t" else _escape(found[0])
