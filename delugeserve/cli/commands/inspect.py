"""``delugeserve inspect``: what a checkpoint, ONNX file, plan, version or repository holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import filesize
from rich.table import Table
from rich.text import Text

from delugeserve.artifacts.references import INSPECTABLE, Reference, recognise
from delugeserve.artifacts.typed_json import to_json
from delugeserve.cli.render.console import err_console, out, print_json, print_table
from delugeserve.cli.render.verification import print_verification
from delugeserve.errors import UsageError
from delugeserve.system.hardware import describe_capabilities
from delugeserve.zoo import find_model

if TYPE_CHECKING:
    from delugeserve.artifacts.checkpoints import CheckpointFile
    from delugeserve.artifacts.graphs import GraphFile
    from delugeserve.artifacts.manifest import Manifest
    from delugeserve.artifacts.model_config import ModelConfig
    from delugeserve.artifacts.plans import PlanFile
    from delugeserve.artifacts.records import PlanDetails
    from delugeserve.artifacts.versions import RepositoryModel, Version

_CLASSES_SHOWN = 10


def command(
    path: Annotated[
        str,
        typer.Argument(
            help="A checkpoint, an ONNX file, a TensorRT plan, the folder of a version, of a model "
            "or of a repository, or a model's name for its shipped weights.",
            show_default=False,
        ),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
) -> None:
    """Say what is in a checkpoint, ONNX file, plan, version or repository."""
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
    """What a reference refers to, and the function that prints it."""
    from delugeserve.artifacts.checkpoints import read_checkpoint, shipped_weights
    from delugeserve.artifacts.graphs import read_graph
    from delugeserve.artifacts.plans import read_plan
    from delugeserve.artifacts.versions import read_repository, read_version

    if reference.kind == "weights":
        return _print_checkpoint, read_checkpoint(shipped_weights(find_model(reference.value)))
    path = Path(reference.value)
    if reference.kind == "checkpoint":
        return _print_checkpoint, read_checkpoint(path)
    if reference.kind == "onnx":
        return _print_graph, read_graph(path)
    if reference.kind == "plan":
        return _print_plan, read_plan(path)
    if reference.kind == "version":
        return _print_version, read_version(path)
    return _print_repository, read_repository(path)


def _plain(found: Any) -> dict[str, Any]:
    """What was found, as JSON has it."""
    if isinstance(found, list):
        return {"models": to_json(found)}
    plain: dict[str, Any] = to_json(found)
    if config := getattr(found, "config", None):
        derived = ("instances", "instance_kinds", "threads", "num_classes")
        plain["config"] |= {name: to_json(getattr(config, name)) for name in derived}
    return plain


def _print_checkpoint(found: CheckpointFile) -> None:
    tensors = ", ".join(
        f"{count} {dtype} ({_size(found.tensor_bytes[dtype])})"
        for dtype, count in found.tensors.items()
    )
    if not found.ours:
        _heading(found.path.name, "a safetensors file, but not a checkpoint of delugeserve")
        _print_facts(
            {
                "file": f"{_size(found.bytes)}, {found.path}",
                "values": f"{found.parameters + found.buffers:,}",
                "tensors": tensors,
                **found.other,
            }
        )
        return
    model, dataset = found.model, found.model.get("dataset", {})
    _heading(found.path.name, "a checkpoint of delugeserve")
    _print_facts(
        {
            "file": f"{_size(found.bytes)}, {found.path}",
            "model": f"{model['name']} for {dataset.get('title', '?')}: blocks of "
            f"{_listed(model.get('layers', ()))} layers, {_listed(model.get('widths', ()))} wide",
            "parameters": f"{found.parameters:,}, and {found.buffers:,} of BatchNorm's statistics",
            "tensors": tensors,
            "classes": _classes(found.class_names),
            "recipe": _settings(found.recipe),
            **_provenance(found.data, found.metrics),
            **_environment("trained", found.environment),
        }
    )


def _print_graph(found: GraphFile) -> None:
    _heading(
        found.path.name,
        "an ONNX graph that delugeserve exported" if found.ours else "an ONNX graph, not of ours",
    )
    nodes = ", ".join(f"{count} {name}" for name, count in found.nodes.items())
    _print_facts(
        {
            "file": f"{_size(found.bytes)}, {found.path}"
            + (", whose weights lie in other files" if found.external else ""),
            "producer": f"{found.producer or '?'}; IR version {found.ir_version}",
            "opset": ", ".join(f"{name} {version}" for name, version in found.opsets.items()),
            "metadata": _settings(found.metadata),
            "takes": _listed(f"{name} {tensor}" for name, tensor in found.inputs.items()),
            "gives": _listed(f"{name} {tensor}" for name, tensor in found.outputs.items()),
            "parameters": f"{found.parameters:,} stored values",
            "stored": _listed(
                f"{_size(size)} of {dtype}" for dtype, size in found.stored_bytes.items()
            ),
            "precision": _precision(found),
            "nodes": f"{sum(found.nodes.values()):,}: {nodes}",
        }
    )


def _precision(found: GraphFile) -> str:
    """What a runtime that obeys the graph computes in, by where its weights are kept."""
    weights = _listed(f"{count} in {dtype}" for dtype, count in found.weights.items())
    total = sum(found.weights.values())
    quantise, dequantise = (
        found.nodes.get(f"{name}Linear", 0) for name in ("Quantize", "Dequantize")
    )
    return (
        (f"weights of {total} Conv, Gemm and MatMul nodes: {weights}" if total else "no weights")
        + "; "
        + (
            f"{quantise} QuantizeLinear and {dequantise} DequantizeLinear nodes"
            if quantise or dequantise
            else "not quantised"
        )
    )


def _print_plan(found: PlanFile) -> None:
    _heading(found.path.name, f"a plan of {found.builder}")
    origin = _origin(found.manifest) if found.manifest else {"manifest": "none beside it"}
    _print_facts(
        {
            "file": f"{_size(found.bytes)}, {found.path}",
            "built by": f"{found.builder} {found.version}",
            **origin,
        }
    )


def _print_version(found: Version) -> None:
    served = {True: "served", False: "not served", None: "in no repository"}[found.served]
    _heading(f"{found.model}/{found.number}", f"an exported version, {served}")
    facts = {"folder": str(found.folder), **_origin(found.manifest)}
    if found.config:
        facts["served with"] = _served_with(found.config)
    facts["classes"] = _classes(found.labels)
    _print_facts(facts)
    states = {
        "whole": "[green]whole[/]",
        "changed": "[bold red]changed[/]",
        "missing": "[bold red]missing[/]",
        None: "[dim]not listed[/]",
    }
    out.print()
    print_table(
        ("file", "SHA-256", "size"),
        ((Text(file.name), states[file.state], _size(file.bytes)) for file in found.files),
        texts=2,
    )
    out.print()
    print_verification(found.manifest)
    if any(file.state in ("changed", "missing") for file in found.files):
        err_console.print("[red]not the files that were exported:[/] export the model again")


def _origin(manifest: Manifest) -> dict[str, str]:
    """The essentials of a manifest, as lines to print."""
    origin = manifest.checkpoint
    weights = f"untrained, seed {origin.seed}: its answers mean nothing"
    if manifest.trained:
        weights = f"{origin.file}, SHA-256 {_short(origin.sha256)}"
    return {
        "model": manifest.model,
        "runs on": f"{manifest.backend} in {manifest.precision}, at most "
        f"{manifest.max_batch_size} images at once",
        **(_engine(manifest.engine) if manifest.engine else {}),
        "weights": weights,
        **_provenance(origin.data, origin.metrics),
        "exported": manifest.created,
        **_environment("exported", manifest.environment),
    }


def _engine(plan: PlanDetails) -> dict[str, str]:
    """What a plan is good for, as lines to print."""
    gpus = describe_capabilities(plan.compute_capabilities, plan.minimum_compute_capability)
    built_on = f"; built on {plan.built_on}" if plan.built_on else ""
    products = _listed(f"{count} in {name}" for name, count in plan.precisions.items())
    counted = "of the engine" if plan.precisions_of == "engine" else "of its graph"
    return {
        "plan for": f"GPUs of compute capability {gpus}{built_on}",
        "loaded by": f"{plan.runtime} {plan.version} only",
        "profile": "; ".join(
            f"{name} from {list(shapes.min)} to {list(shapes.max)}, best at {list(shapes.opt)}"
            for name, shapes in plan.profile.items()
        ),
        "precision": f"matrix products {counted}: {products}",
    }


def _top5(metrics: Mapping[str, Any]) -> str:
    error = metrics.get("top5_error")  # None for five classes or fewer
    return "" if error is None else f", top-5 error {error} %"


def _provenance(data: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, str]:
    """What weights were trained on and how well they did, as lines to print."""
    return {
        "data": _settings({key: _short(value) for key, value in data.items()}),
        "metrics": f"top-1 error {metrics['top1_error']} %"
        f"{_top5(metrics)} on {metrics.get('num_images', '?')} test images"
        if "top1_error" in metrics
        else _settings(metrics),
    }


def _environment(done: str, environment: Mapping[str, Any]) -> dict[str, str]:
    """Where something was made, as lines to print; a machine's description has commas itself."""
    versions = {key: value for key, value in environment.items() if key != "machine"}
    return {
        f"{done} with": _settings(versions),
        f"{done} on": str(environment.get("machine", "")),
    }


def _served_with(config: ModelConfig) -> str:
    kinds = ", ".join(kind.removeprefix("KIND_") for kind in config.instance_kinds)
    parts = [
        f"batches up to {config.max_batch_size}",
        f"{config.instances} instance{'s' * (config.instances != 1)}"
        + (f" ({kinds})" if kinds else ""),
        f"{config.threads or 'default'} threads",
        ("dynamic batching" if config.dynamic_batching else "no dynamic batching")
        + (f" ({config.queue_delay_us} µs delay)" if config.queue_delay_us else ""),
        f"warm-up of {_listed(map(str, sorted(config.warmup_batches)))}"
        if config.warmup_batches
        else "no warm-up",
    ]
    return ", ".join(parts)


def _print_repository(models: list[RepositoryModel]) -> None:
    print_table(
        ("model", "backend", "precision", "weights", "version", "others", "batch", "size"),
        (
            (
                Text(model.name),
                Text(model.backend or "?"),
                model.manifest.precision if model.manifest else "?",
                _trained(model.manifest),
                "-" if model.version is None else str(model.version),
                str(len(model.others)),
                "?" if model.max_batch_size is None else str(model.max_batch_size),
                _size(model.bytes),
            )
            for model in models
        ),
        texts=4,
    )
    for model in models:
        if model.fault:
            err_console.print(
                f"{model.name}: {model.fault}", style="red", markup=False, soft_wrap=True
            )


def _trained(manifest: Manifest | None) -> str:
    if manifest is None:
        return "?"
    return "trained" if manifest.trained else "untrained"


def _heading(name: str, what: str) -> None:
    out.print(Text.assemble((name, "bold"), f": {what}"), soft_wrap=True)


def _print_facts(facts: Mapping[str, str]) -> None:
    """Two columns, what and how much; empty lines are left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in facts.items():
        if fact:
            table.add_row(Text(name), Text(fact))
    out.print(table)


def _settings(values: Mapping[str, Any]) -> str:
    """Names and values in a row; those with nothing in them are left out."""
    return ", ".join(
        f"{key.replace('_', ' ')} "
        + (f"({_settings(value)})" if isinstance(value, Mapping) else str(value))
        for key, value in values.items()
        if value not in ([], None, "")
    )


def _short(value: Any) -> Any:
    """The first 12 digits of a hash, as many as git shows; anything else as it is."""
    return value[:12] if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else value


def _classes(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_CLASSES_SHOWN])
    return f"{len(names)}: {shown}{', ...' if len(names) > _CLASSES_SHOWN else ''}"


def _listed(values: Iterable[Any]) -> str:
    *others, last = [str(value) for value in values] or ["-"]
    return f"{', '.join(others)} and {last}" if others else last


def _size(number: int) -> str:
    return filesize.decimal(number)
