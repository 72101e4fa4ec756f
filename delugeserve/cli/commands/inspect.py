"""``delugeserve inspect``: describe a checkpoint, ONNX file, plan, version or repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from delugeserve.artifacts.references import INSPECTABLE, Reference, recognise
from delugeserve.artifacts.typed_json import to_json
from delugeserve.cli.options import Json, complete_models
from delugeserve.cli.render import inspection
from delugeserve.cli.render.console import print_json
from delugeserve.errors import UsageError
from delugeserve.zoo import find_model


def command(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="Checkpoint, run folder, ONNX file, TensorRT plan, exported version, model "
            "folder, model repository, or a model name for its pretrained weights.",
            show_default=False,
            autocompletion=complete_models,
        ),
    ],
    json: Json = False,
) -> None:
    """Describe a checkpoint, ONNX file, TensorRT plan, exported version or repository."""
    reference = recognise(path, INSPECTABLE)
    try:
        print_, found = _read(reference)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror or error}.",
            "Check the path and its permissions.",
        ) from error
    if json:
        print_json({"kind": reference.kind, **_plain(found)})
    else:
        print_(found)


def _read(reference: Reference) -> tuple[Callable[[Any], None], Any]:
    """Return the function that prints what a reference refers to, and what it prints."""
    from delugeserve.artifacts.checkpoints import read_checkpoint, shipped_weights
    from delugeserve.artifacts.graphs import read_graph
    from delugeserve.artifacts.plans import read_plan
    from delugeserve.artifacts.versions import read_repository, read_version

    if reference.kind == "weights":
        return inspection.print_checkpoint, read_checkpoint(
            shipped_weights(find_model(reference.value))
        )
    path = Path(reference.value)
    if reference.kind == "checkpoint":
        return inspection.print_checkpoint, read_checkpoint(path)
    if reference.kind == "onnx":
        return inspection.print_graph, read_graph(path)
    if reference.kind == "plan":
        return inspection.print_plan, read_plan(path)
    if reference.kind == "version":
        return inspection.print_version, read_version(path)
    return inspection.print_repository, read_repository(path)


def _plain(found: Any) -> dict[str, Any]:
    """Return the description as plain JSON values."""
    if isinstance(found, list):
        return {"models": to_json(found)}
    plain: dict[str, Any] = to_json(found)
    if config := getattr(found, "config", None):
        derived = ("instances", "instance_kinds", "threads", "num_classes")
        plain["config"] |= {name: to_json(getattr(config, name)) for name in derived}
    return plain
