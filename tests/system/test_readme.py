"""The README's session runs, word for word."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import skimage
from PIL import Image

README = Path(__file__).parents[2] / "README.md"


def test_the_readmes_session_runs(tmp_path, write_tiny_cifar, console_commands):
    """Every command of the README, in order, in a folder with a photograph and a data set.

    The data set is a small ``cifar10``, which is found before the one that can be downloaded. The
    server gets free ports, for another suite may run on this machine, and training one epoch.
    """
    folder = Path(str(skimage.__file__)).parent / "data"
    Image.open(folder / "chelsea.png").convert("RGB").save(tmp_path / "cat.jpg")
    write_tiny_cifar(tmp_path / "cifar10", train=40, test=40)
    session = [words[1:] for words in console_commands(README) if words[0] == "delugeserve"]
    assert [line[0] for line in session][:4] == ["export", "serve", "classify", "benchmark"]
    environment = os.environ | {"COLUMNS": "100"}
    server, url = None, []
    try:
        for arguments in session:
            command = [sys.executable, "-m", "delugeserve", *arguments]
            if arguments[0] == "serve":
                command += ["--grpc-port", "0", "--no-http", "--metrics-port", "0", "--json"]
                server = subprocess.Popen(
                    command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
                )
                ready = server.stdout.readline()
                assert ready, "the server did not start"
                url = ["--url", json.loads(ready)["grpc"]]
                continue
            if arguments[0] in ("classify", "benchmark"):
                command += url
            if arguments[0] == "train":
                command += ["--epochs", "1"]
            done = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, (arguments, done.stderr)
            if arguments[0] == "classify":
                assert re.search(r"cat\.jpg.*cat", done.stdout)
    finally:
        if server is not None:
            server.terminate()
            assert server.wait() == 0
            server.stdout.close()


def test_the_clients_ask_where_the_server_listens():
    """The README gives no address: the defaults of both sides agree."""
    import typer

    from delugeserve.cli import app

    def default(command, name):
        options = typer.main.get_command(app).get_command(None, command).params
        (option,) = [option for option in options if option.name == name]
        return option.default

    port = default("serve", "grpc_port")
    for command in ("classify", "benchmark"):
        assert default(command, "url") == f"localhost:{port}"
