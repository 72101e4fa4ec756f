"""What several of the package's tests share."""

import sys

import pytest

from delugeserve import cli


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process: exit status, standard output, standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["delugeserve", *map(str, arguments)])
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
