"""Every command of the README and the guides is real: the README's session runs, all parse."""

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import skimage
import typer
from PIL import Image

from delugeserve.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page):
    """The lines after a dollar sign in a page's console blocks, continued lines joined."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                yield line[2:].split("  #")[0].strip()


def ours(page):
    return [shlex.split(line)[1:] for line in commands(page) if line.startswith("delugeserve ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_parses(page):
    group = typer.main.get_command(app)
    for arguments in ours(page):
        command = group.get_command(None, arguments[0])
        assert command is not None, arguments
        command.make_context(arguments[0], arguments[1:], resilient_parsing=False)


def test_every_make_target_exists():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {
        line.split()[-1]
        for page in PAGES
        for line in commands(page)
        if line.startswith("make ") or "&& make" in line
    }
    assert used <= targets
    assert {"demo", "test"} <= used


@pytest.mark.system
def test_the_readmes_session_runs(tmp_path, write_tiny_cifar):
    """Every command of the README, word by word and in order, in a folder with two things.

    They are a photograph, and a small ``cifar10`` that is taken before one from the network.
    """
    for port in (8000, 8001, 8002):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"needs port {port}, which something uses")
    folder = Path(str(skimage.__file__)).parent / "data"
    Image.open(folder / "chelsea.png").convert("RGB").save(tmp_path / "cat.jpg")
    write_tiny_cifar(tmp_path / "cifar10")
    session = ours(ROOT / "README.md")
    assert [line[0] for line in session][:4] == ["export", "serve", "classify", "benchmark"]
    environment = os.environ | {"COLUMNS": "100"}
    server = None
    try:
        for arguments in session:
            command = [sys.executable, "-m", "delugeserve", *arguments]
            if arguments[0] == "serve":
                server = subprocess.Popen(command, cwd=tmp_path, env=environment)
                _wait_for_port(8001)
                continue
            done = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True,
                timeout=200, check=False,
            )  # fmt: skip
            assert done.returncode == 0, (arguments, done.stderr)
            if arguments[0] == "classify":
                assert re.search(r"cat\.jpg.*cat", done.stdout)
    finally:
        if server is not None:
            server.terminate()
            assert server.wait(60) == 0


def _wait_for_port(port):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                time.sleep(2)
                return
        time.sleep(0.2)
    pytest.fail("the server did not start")
