import io
import json
import subprocess
import sys

import pytest
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from delugeserve.cli.render.safe_text import SafeText, encodable, printable


def console(encoding="utf-8", **options):
    made = Console(file=io.TextIOWrapper(io.BytesIO(), encoding), highlight=False, **options)
    made.push_render_hook(SafeText(made))
    return made


def written(console):
    console.file.flush()
    return console.file.buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain é 猫.png", "plain é 猫.png"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("latin\udce9", "latin\\xe9"),
    ],
)
def test_printable(name, expected):
    assert printable(name) == expected


def test_encodable():
    assert encodable("━━ 5\u00a0% → é 猫", "ascii") == "== 5 % -> \\xe9 \\u732b"
    assert encodable("━ é", "latin-1") == "= é"
    assert encodable("━ é", "utf-8") == "━ é"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_console_prints_no_control_characters_of_a_name(terminal):
    safe = console(force_terminal=terminal)
    safe.print(Text("evil\x1b[2J\udcff", "bold"), "evil\x1b[2J", sep="\n")
    assert b"evil\\x1b[2J\\xff" in written(safe)
    assert b"\x1b[2J" not in written(safe)
    assert (b"\x1b[1m" in written(safe)) == terminal  # the console's own style


def test_a_console_whose_encoding_lacks_a_character():
    safe = console("ascii")
    safe.print("━ 猫")
    assert written(safe) == b"= \\u732b\n"


def test_a_progress_bar_still_moves_the_cursor():
    safe = console(force_terminal=True)
    with Progress(console=safe, transient=True, auto_refresh=False) as progress:
        progress.add_task("work", total=2)
        progress.refresh()
        progress.refresh()
    assert b"\x1b[2K" in written(safe)  # rich erases the line itself


SCRIPT = """
from delugeserve.cli.render.console import out, print_json, print_table
print_table(("image", "label"), [["x/" * 200, "caf\u00e9"]])
out.print("\u2501")
print_json({"label": "caf\u00e9 \U0001f600"})
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_tables_and_json_in_every_encoding(encoding):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        env={"PYTHONIOENCODING": encoding, "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode(encoding).splitlines()
    assert lines[2].startswith("x/" * 200)  # one line per row, however long
    assert lines[0].replace("|", " ").split() == ["image", "label"]
    assert not any(line.endswith(" ") for line in lines)
    assert json.loads("".join(lines[4:])) == {"label": "café \U0001f600"}
