"""Every `delugeserve` command line in deploy/ is one that the command line accepts."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from deployment import COMPOSE, DEPLOY, DOCKERFILES, KSERVE, KUBERNETES, command_line, load

from delugeserve.artifacts.repository import StoredModel
from delugeserve.cli import app
from delugeserve.serving.containers import container_command


def _systemd():
    unit = (DEPLOY / "systemd" / "delugeserve.service").read_text()
    (start,) = re.findall(r"^ExecStart=(.*)", unit, re.MULTILINE)
    return ["delugeserve", *shlex.split(start.replace("$SERVE_OPTIONS", ""))[1:]]


def _kserve():
    (container,) = load(KSERVE / "servingruntime.yaml")["spec"]["containers"]
    return ["delugeserve", *container["args"]]


def _kubernetes():
    spec = load(KUBERNETES / "base" / "server.yaml")["spec"]["template"]["spec"]
    return ["delugeserve", *spec["containers"][0]["args"]]


def _printed():
    command = container_command(
        "docker", Path("/models"), [StoredModel("a", Path("/a"), "openvino", True)], selected=True
    )
    return ["delugeserve", *command.run[command.run.index(command.image.name) + 1 :]]


LINES = {
    **{path.name: command_line(path) for path in DOCKERFILES},
    **{
        path.name: ["delugeserve", *load(path)["services"]["delugeserve"]["command"]]
        for path in (COMPOSE / "compose.yaml", COMPOSE / "gpu.yaml")
    },
    "systemd": _systemd(),
    "KServe": _kserve(),
    "Kubernetes": _kubernetes(),
    "serve --launcher": _printed(),
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES.keys())
def test_it_parses(line):
    program, name, *arguments = line
    assert (program, name) == ("delugeserve", "serve")
    command = typer.main.get_command(app).get_command(None, name)
    command.make_context(name, list(arguments), resilient_parsing=False)


@pytest.mark.parametrize("line", LINES.values(), ids=LINES.keys())
def test_it_listens_where_others_can_reach_it(line):
    """In a container; the service of systemd listens on loopback until it is told otherwise."""
    listens = " ".join(line).replace("=", " ")
    reachable = line is not LINES["systemd"]
    assert ("--host 0.0.0.0 --insecure" in listens) == reachable
    assert ("--metrics-host 0.0.0.0" in listens) == reachable
