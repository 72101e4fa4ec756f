"""Commands in messages can be pasted: a path in one is quoted."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import delugeserve
import delugeserve_client
import delugeserve_export

PACKAGES = (delugeserve, delugeserve_client, delugeserve_export)
# The end of the text before a value, where that is an argument of a command.
COMMAND = r"(--?[a-z-]+|delugeserve [a-z]+|rm|chmod \S+ \S+|mount \S+) "
ARGUMENT = re.compile(rf"(^|[\s'(]){COMMAND}$")
PATH = re.compile(
    r"\b(path|folder|output|parent|repository|file|source|data|text|reference|root|place)\b"
)


def unquoted(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr):
            continue
        for before, value in zip(node.values, node.values[1:], strict=False):
            if not isinstance(before, ast.Constant) or not isinstance(value, ast.FormattedValue):
                continue
            expression = ast.unparse(value.value)
            if (
                ARGUMENT.search(before.value)
                and PATH.search(expression)
                and "quote(" not in expression
            ):
                yield f"{node.lineno}: {before.value}{{{expression}}}"


def test_paths_in_commands_are_quoted():
    found = []
    for package in PACKAGES:
        for file in sorted(Path(package.__file__).parent.rglob("*.py")):
            text = file.read_text(encoding="utf-8")
            if re.search(COMMAND + r"\{", text):  # parsing all of them takes long
                found += [f"{file.name}:{place}" for place in unquoted(ast.parse(text))]
    assert not found


def test_an_unquoted_path_is_found():
    found = unquoted(ast.parse('f"Resume it with: delugeserve train --resume {folder}"'))
    assert len(list(found)) == 1
    assert not list(unquoted(ast.parse('f"--resume {shlex.quote(str(folder))}"')))
    assert not list(unquoted(ast.parse('f"There is no folder {folder}"')))
