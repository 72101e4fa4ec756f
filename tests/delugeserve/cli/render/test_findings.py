"""The findings of ``delugeserve doctor`` as text."""

import io

import pytest
from rich.console import Console

from delugeserve.cli.render import findings as module
from delugeserve.doctor import Finding

REMEDY = "Export it again with: delugeserve export --model tiny --precision fp32 --max-batch-size 8"
FINDINGS = [
    Finding("machine", "Python", "ok", "3.11"),
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
        ["ok", "Python", "3.11"],
        [],
        ["repository"],
        ["problem", "tiny", "1/model.onnx", "is", "missing"],
        REMEDY.split(),
        ["warning", "small", "[no", "markup]"],
    ]
    assert capsys.readouterr().err == "1 problem, 1 warning\n"


def test_on_a_terminal_text_is_wrapped_in_its_column(render):
    lines = render(terminal=True)
    assert len(lines) > len(render(terminal=False))
