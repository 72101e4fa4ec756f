"""The findings of ``delugeserve doctor`` as text."""

import io
import re

import pytest
from rich.console import Console

from delugeserve.cli.render import findings as module
from delugeserve.doctor import Finding

REMEDY = "Export it again with: delugeserve export --model tiny --precision fp32 --max-batch-size 8"
PATH = "/usr/lib/python3/site-packages/pytriton/tritonserver/bin/tritonserver"
CPU = "AMD EPYC with many cores, some of them usable here"
FINDINGS = [
    Finding("machine", "Python", "ok", f"3.11 at {PATH}"),
    Finding("machine", "CPU", "ok", CPU),
    Finding("repository", "tiny", "problem", "1/model.onnx is missing", REMEDY),
    Finding("repository", "small", "warning", "[no markup]", None),
]


@pytest.fixture
def render(monkeypatch):
    def render(terminal):
        file = io.StringIO()
        monkeypatch.setattr(
            module, "out", Console(file=file, force_terminal=terminal, width=60, soft_wrap=True)
        )
        module.print_findings(FINDINGS)
        return file.getvalue().splitlines()

    return render


def test_piped_each_finding_and_each_remedy_is_one_line(render, capsys):
    lines = render(terminal=False)
    assert [line.split() for line in lines] == [
        ["machine"],
        ["ok", "Python", "3.11", "at", PATH],
        ["ok", "CPU", *CPU.split()],
        [],
        ["repository"],
        ["problem", "tiny", "1/model.onnx", "is", "missing"],
        REMEDY.split(),
        ["warning", "small", "[no", "markup]"],
    ]
    assert capsys.readouterr().err == "1 problem, 1 warning\n"


def test_on_a_terminal_text_is_wrapped_in_its_column(render):
    lines = render(terminal=True)
    (first,) = [number for number, line in enumerate(lines) if "AMD" in line]
    start = re.sub("\x1b\\[[0-9;]*m", "", lines[first]).index("AMD")
    assert lines[first + 1][:start].isspace()
    assert lines[first + 1][start:] == CPU[-len(lines[first + 1][start:]) :]
    assert max(map(len, lines[first : first + 2])) <= 60 + len("\x1b[32m\x1b[0m")


def test_remedies_and_paths_are_not_broken(render):
    lines = render(terminal=True)
    assert any(REMEDY in line for line in lines)
    assert any(PATH in line for line in lines)
