"""What the tests of the package share."""

import sys

import pytest

from delugeserve import cli


@pytest.fixture
def run(monkeypatch, capsys):
    """The command line in this process: arguments to exit status, standard output and error."""

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
