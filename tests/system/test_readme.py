"""The README's session runs, word for word."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import skimage
from pictures import write_pictures
from PIL import Image

FLOWERS = {"rose": (200, 30, 60), "tulip": (230, 200, 40)}
# What is added to save time: the last of two options counts. A busy machine keeps this budget too.
SHORTER = {
    ("benchmark", "--latency-budget"): [
        *("--latency-budget", "150ms", "--percentile", "50", "--precision", "1"),
        *("--duration", "1", "--warmup", "0"),
    ],
    ("benchmark", "--duration"): ["--duration", "0.5", "--warmup", "0"],
    ("tune", "delugenet38"): ["--dry-run"],
    ("train", "--model"): ["--epochs", "1"],
}
README = Path(__file__).parents[2] / "README.md"


def test_the_readmes_sessions_run(tmp_path, console_commands):
    """Every command of the README, in order, in a folder with photographs and their data set.

    The servers get free ports, for another suite may run on this machine, and training one epoch.
    """
    folder = Path(str(skimage.__file__)).parent / "data"
    for name, picture in (("cat", "chelsea.png"), ("rose", "rocket.jpg")):
        Image.open(folder / picture).convert("RGB").save(tmp_path / f"{name}.jpg")
    write_pictures(tmp_path / "flowers", FLOWERS, count=10)
    write_pictures(tmp_path / "photos", FLOWERS, count=2)
    session = [words[1:] for words in console_commands(README) if words[0] == "delugeserve"]
    first = ["export", "serve", "classify", "benchmark"]
    production = ["serve", "export", "rollback", "status"]
    many = ["classify", "classify", "benchmark", "tune"]
    own = ["train", "export", "serve", "classify"]
    assert [line[0] for line in session] == [*first, *production, *many, *own]
    environment = os.environ | {"COLUMNS": "100"}
    server, answers = None, []
    try:
        for arguments in session:
            command = [sys.executable, "-m", "delugeserve", *arguments]
            if arguments[0] == "serve":
                stop(server)
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
            command += SHORTER.get(tuple(arguments[:2]), [])
            done = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, (arguments, done.stderr)
            if arguments[0] == "classify":
                answers.append(done.stdout)
    finally:
        stop(server)
    pictures, *bulk, flowers = answers
    assert bulk == ["", ""]
    assert len((tmp_path / "labels.jsonl").read_text().splitlines()) == 4
    assert re.search(r"cat\.jpg.*cat", pictures)
    assert re.search(r"rose\.jpg.*(rose|tulip)", flowers), "a class of the folder"


def stop(server: "subprocess.Popen[str] | None") -> None:
    """Stop a server that may not have been started."""
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
    assert default("classify", "url") == [f"localhost:{port}"]
    assert default("benchmark", "url") == f"localhost:{port}"
