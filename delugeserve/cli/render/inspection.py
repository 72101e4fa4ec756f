"""Describe checkpoints, ONNX files, plans, versions and repositories on standard output."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich import filesize
from rich.text import Text

from delugeserve.artifacts.graphs import read_network
from delugeserve.artifacts.remedies import export_command
from delugeserve.cli.render.console import err_console, out, print_facts, print_table, print_warning
from delugeserve.cli.render.figures import percent
from delugeserve.cli.render.verification import print_verifications
from delugeserve.system.hardware import describe_capabilities

if TYPE_CHECKING:
    from delugeserve.artifacts.checkpoints import CheckpointFile
    from delugeserve.artifacts.graphs import GraphFile
    from delugeserve.artifacts.manifest import Manifest
    from delugeserve.artifacts.model_config import ModelConfig
    from delugeserve.artifacts.plans import PlanFile
    from delugeserve.artifacts.records import PlanDetails
    from delugeserve.artifacts.versions import RepositoryModel, Version
    from delugeserve.zoo import ModelSpec

_CLASSES_SHOWN = 10


def print_checkpoint(found: CheckpointFile) -> None:
    """Print what the header of a safetensors file contains."""
    tensors = ", ".join(
        f"{count} {dtype} ({_size(found.tensor_bytes[dtype])})"
        for dtype, count in found.tensors.items()
    )
    if found.model is None:
        _heading(found.path.name, "a safetensors file of another program")
        print_facts(
            {
                "file": f"{_size(found.bytes)}, {found.path}",
                "values": f"{found.parameters + found.buffers:,}",
                "tensors": tensors,
                **found.other,
            }
        )
        return
    _heading(found.path.name, "a checkpoint")
    print_facts(
        {
            "file": f"{_size(found.bytes)}, {found.path}",
            "model": found.model.name,
            **_network(found.model),
            "parameters": f"{found.parameters:,}, and {found.buffers:,} BatchNorm statistics",
            "tensors": tensors,
            "recipe": _recipe(found.recipe),
            "started from": "; ".join(_initial(found.recipe)),
            **_provenance(found.data, found.metrics),
            **_environment("trained", found.environment),
        }
    )


def print_graph(found: GraphFile) -> None:
    """Print what an ONNX file contains."""
    _heading(
        found.path.name,
        "an exported ONNX graph" if found.ours else "an ONNX graph of another program",
    )
    nodes = ", ".join(f"{count} {name}" for name, count in found.nodes.items())
    spec = read_network(found.metadata)
    network = _network(spec) if spec else {}
    print_facts(
        {
            "file": f"{_size(found.bytes)}, {found.path}"
            + (", with weights in other files" if found.external else ""),
            "producer": f"{found.producer or '?'}; IR version {found.ir_version}",
            "opset": ", ".join(f"{name} {version}" for name, version in found.opsets.items()),
            "metadata": _settings(
                {key: text for key, text in found.metadata.items() if key not in network}
            ),
            **network,
            "input": _listed(f"{name} {tensor}" for name, tensor in found.inputs.items()),
            "output": _listed(f"{name} {tensor}" for name, tensor in found.outputs.items()),
            "parameters": f"{found.parameters:,}, BatchNorm folded into them"
            if found.ours
            else f"{found.parameters:,}",
            "stored": _listed(
                f"{_size(size)} of {dtype}" for dtype, size in found.stored_bytes.items()
            ),
            "precision": _precision(found),
            "nodes": f"{sum(found.nodes.values()):,}: {nodes}",
        }
    )


def _precision(found: GraphFile) -> str:
    """Describe the types of the weights, which a strongly typed runtime computes in."""
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


def print_plan(found: PlanFile) -> None:
    """Print what the header of a plan and the manifest in its folder contain."""
    _heading(found.path.name, f"a {found.builder} plan")
    origin = _origin(found.manifest) if found.manifest else {"manifest": "none in its folder"}
    print_facts(
        {
            "file": f"{_size(found.bytes)}, {found.path}",
            "built by": f"{found.builder} {found.version}",
            **origin,
        }
    )


def print_version(found: Version) -> None:
    """Print an exported version: origin, files, verification."""
    served = {True: "served", False: "not served", None: "not in a repository"}[found.served]
    _heading(f"{found.model}/{found.number}", f"an exported version, {served}")
    facts = {
        "folder": str(found.folder),
        **_origin(found.manifest),
        **_network(found.manifest.network),
    }
    if found.config:
        facts["served with"] = _served_with(found.config)
    print_facts(facts)
    states = {
        "whole": "[green]unchanged[/]",
        "changed": "[bold red]changed[/]",
        "missing": "[bold red]missing[/]",
        None: "[dim]not in the manifest[/]",
    }
    out.print()
    print_table(
        ("file", "since the export", "size"),
        ((Text(file.name), states[file.state], _size(file.bytes)) for file in found.files),
        texts=2,
    )
    out.print()
    print_verifications(found.manifest)
    for fault in found.label_faults:
        print_warning(f"In '{found.model}', {fault.problem}. {fault.remedy}")
    if any(file.state in ("changed", "missing") for file in found.files):
        command = export_command(found.folder.parent, found.manifest)
        print_warning(f"Files differ from those that were exported. Export them again: {command}")


def _origin(manifest: Manifest) -> dict[str, str]:
    """Return the main facts of a manifest."""
    origin = manifest.checkpoint
    weights = f"untrained, seed {origin.seed}: its predictions are meaningless"
    if manifest.trained:
        weights = f"{origin.file}, {_short(origin.sha256)}"
    return {
        "model": manifest.model,
        "runs on": f"{manifest.backend} in {manifest.precision}, at most "
        f"{manifest.max_batch_size} images per batch",
        **(_engine(manifest.engine) if manifest.engine else {}),
        "weights": weights,
        **_provenance(origin.data, origin.metrics),
        "exported": _date(manifest.created),
        **_environment("exported", manifest.environment),
    }


def _network(spec: ModelSpec) -> dict[str, str]:
    """Return the main facts of an architecture and a task."""
    architecture, task = spec.architecture, spec.task
    return {
        "architecture": f"{architecture.name}: blocks of {_listed(architecture.layers)} composite "
        f"layers with widths {_listed(architecture.widths)}",
        "task": f"{task.title}, {_classes(task.class_names)}",
        "images": f"{task.image_size} x {task.image_size} pixels, the centre of images resized to "
        f"{task.resize_size}; normalised by mean {_listed(task.mean)} and standard deviation "
        f"{_listed(task.std)}",
    }


def _engine(plan: PlanDetails) -> dict[str, str]:
    """Return where a plan runs."""
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


def _provenance(data: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return what weights were trained on and their test errors."""
    return {
        "data": _settings({key: _short(value) for key, value in data.items()}),
        "metrics": _test_errors(metrics) if "top1_error" in metrics else _settings(metrics),
    }


def _test_errors(metrics: Mapping[str, Any]) -> str:
    top5 = metrics.get("top5_error")  # None for five classes or fewer
    images = metrics.get("num_images")
    return (
        f"top-1 error {percent(metrics['top1_error'])}"
        + ("" if top5 is None else f", top-5 error {percent(top5)}")
        + (
            f" on {images:,} {metrics.get('split', 'test')} images"
            if isinstance(images, int)
            else ""
        )
    )


def _environment(done: str, environment: Mapping[str, Any]) -> dict[str, str]:
    """Return versions and machine; apart, because a machine's description contains commas."""
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


def print_repository(models: list[RepositoryModel]) -> None:
    """Print a table of a repository's models, and what is wrong with them."""
    print_table(
        (
            "model",
            "backend",
            "precision",
            "weights",
            "served version",
            "other versions",
            "max batch",
            "size",
        ),
        (
            (
                Text(model.name),
                Text(model.backend or "?"),
                model.manifest.precision if model.manifest else "?",
                _trained(model.manifest),
                "-" if model.version is None else str(model.version),
                ", ".join(map(str, model.others)) or "-",
                "?" if model.max_batch_size is None else str(model.max_batch_size),
                _size(model.bytes),
            )
            for model in models
        ),
        texts=4,
    )
    for model in models:
        if model.fault:
            err_console.print(f"{model.name}: {model.fault}", style="red", markup=False)


def _trained(manifest: Manifest | None) -> str:
    if manifest is None:
        return "?"
    return "trained" if manifest.trained else "untrained"


def _heading(name: str, what: str) -> None:
    out.print(Text.assemble((name, "bold"), f": {what}"))


def _recipe(recipe: Mapping[str, Any]) -> str:
    settings = {key: value for key, value in recipe.items() if key not in ("name", "initial")}
    return ", ".join(filter(None, [str(recipe.get("name", "")), _settings(settings)]))


def _initial(recipe: Mapping[str, Any]) -> Iterator[str]:
    """Yield the earlier runs whose weights a run started from, the latest first."""
    while isinstance(initial := recipe.get("initial"), Mapping):
        recipe, metrics = initial.get("recipe", {}), initial.get("metrics", {})
        epochs = f", {recipe['epochs']} epochs" if "epochs" in recipe else ""
        errors = f", {_test_errors(metrics)}" if "top1_error" in metrics else ""
        yield f"{recipe.get('name', '?')}{epochs}{errors}"


def _settings(values: Mapping[str, Any]) -> str:
    """Return names and values in one line; empty values are left out."""
    return ", ".join(
        f"{key.replace('_', ' ')} "
        + (f"({_settings(value)})" if isinstance(value, Mapping) else _number(value))
        for key, value in values.items()
        if value not in ([], None, "")
    )


def _number(value: Any) -> str:
    """Return a value as text; floats without the noise of their last digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _short(value: Any) -> Any:
    """Shorten a SHA-256 to 12 digits; return anything else as it is."""
    is_hash = isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)
    return f"sha256:{value[:12]}..." if is_hash else value


def _date(text: str) -> str:
    """Return an ISO 8601 date in UTC as it is read."""
    return text.replace("T", " ").replace("+00:00", " UTC")


def _classes(names: tuple[str, ...]) -> str:
    shown = ", ".join(f"'{name}'" if "," in name else name for name in names[:_CLASSES_SHOWN])
    return f"{len(names)} classes: {shown}{', ...' if len(names) > _CLASSES_SHOWN else ''}"


def _listed(values: Iterable[Any]) -> str:
    *others, last = [str(value) for value in values] or ["-"]
    return f"{', '.join(others)} and {last}" if others else last


def _size(number: int) -> str:
    return filesize.decimal(number)
