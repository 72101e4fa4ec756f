"""The options of the front, on a command of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from delugeserve.cli.serving_options import FrontOptions, with_front_options
from delugeserve.errors import UsageError
from delugeserve.serving.front.security import Jwt, Security
from delugeserve.serving.front.settings import MIB, Limits

RUNNER = CliRunner()


@pytest.fixture
def parse():
    """Run a command with the options; return its own option, and those of the front."""
    app, got = typer.Typer(), []

    @app.command()
    @with_front_options
    def command(host: Annotated[str, typer.Option(help="Own.")] = "x", *, front: FrontOptions):
        """Do something."""
        got.append((host, front))

    def parse(*arguments: str):
        result = RUNNER.invoke(app, arguments)
        if result.exception:
            raise result.exception
        return got[-1] if got else result.output

    return parse


def test_defaults(parse):
    assert parse() == ("x", FrontOptions(Security(), Limits(), None, None))


def test_all_options(parse, tmp_path):
    host, front = parse(
        *(
            "--host",
            "y",
            "--tls-certificate",
            "a.pem",
            "--tls-key",
            "a.key",
            "--client-ca",
            "c.pem",
        ),
        *("--keys", "k.txt", "--insecure", "--rate-limit", "2.5", "--max-request-mib", "3"),
        *("--request-timeout", "5", "--access-log", str(tmp_path / "log")),
        *("--tracing", "http://localhost:4317"),
    )
    assert host == "y"
    assert front.security == Security(
        Path("a.pem"), Path("a.key"), Path("c.pem"), Path("k.txt"), insecure=True
    )
    assert front.limits == Limits(
        request_bytes=3 * MIB, answer_seconds=5, try_seconds=5, requests_per_second=2.5
    )
    assert front.access_log == tmp_path / "log"
    assert front.tracing == "http://localhost:4317"


def test_tokens(parse):
    _, front = parse("--jwt-issuer", "me", "--jwt-keys", "j.json", "--jwt-audience", "us")
    assert front.security.jwt == Jwt("me", Path("j.json"), "us")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--jwt-issuer", "me"),
        ("--jwt-audience", "us"),
        ("--tracing", "localhost"),
        ("--access-log", "/no/such/folder/log"),
    ],
    ids=" ".join,
)
def test_options_that_contradict_each_other(parse, arguments):
    with pytest.raises(UsageError):
        parse(*arguments)


def test_help_lists_them(parse):
    text = parse("--help")
    assert all(option in text for option in ("--tls-certificate", "--rate-limit", "--host"))
