"""The files of deploy/, for its tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
COMPOSE = DEPLOY / "compose"
KSERVE = DEPLOY / "kserve"
DOCKERFILES = sorted((DEPLOY / "docker").glob("*Dockerfile"))


def load_all(path: Path) -> list[Any]:
    """Return the documents of a YAML file."""
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


def load(path: Path) -> Any:
    """Return the one document of a YAML file."""
    (document,) = load_all(path)
    return document


def pods(objects: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Iterate over the pod templates of the objects."""
    for one in objects:
        if one["kind"] == "Deployment":
            yield one["spec"]["template"]


def containers(template: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the containers of a pod template, those that run first included."""
    return [*template["spec"].get("initContainers", ()), *template["spec"]["containers"]]


def walk(value: Any) -> Iterator[Any]:
    """Iterate over every value in a document."""
    yield value
    children = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, (Mapping, list)):
        for child in children:
            yield from walk(child)


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with their arguments, continued lines joined."""
    lines = [
        line
        for line in dockerfile.read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (name.upper(), rest.strip())
        for name, _, rest in (line.partition(" ") for line in joined.splitlines())
    ]


def command_line(dockerfile: Path) -> list[str]:
    """Return what a container of the Dockerfile runs."""
    found = dict(instructions(dockerfile))
    return [*yaml.safe_load(found["ENTRYPOINT"]), *yaml.safe_load(found["CMD"])]
