"""``delugeserve quickstart``: export, serve, classify and measure in one command."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from delugeserve.cli.options import Json
from delugeserve.cli.render.console import err_console, print_json, print_table
from delugeserve.cli.render.progress import show_progress
from delugeserve.errors import Failure, ParityError
from delugeserve.system.imports import require
from delugeserve.zoo import find_model

if TYPE_CHECKING:
    from delugeserve.system.progress import Progress
    from delugeserve.zoo import ModelSpec
    from delugeserve_client import Classification
    from delugeserve_export import ExportOutcome, ExportPlan

_log = logging.getLogger(__name__)

# CC0 photographs in scikit-image's wheel, and what they show.
_PHOTOS = {
    "chelsea.png": "a cat",
    "motorcycle_left.png": "a motorcycle (not a class of CIFAR-10)",
    "coffee.png": "a cup of coffee (not a class of CIFAR-10)",
}
_BATCH_SIZES = (1, 16)
_WARMUP = 0.5  # seconds before each measurement
_NEXT = (
    ("delugeserve export --model delugenet38", "export to ./model_repository"),
    ("delugeserve serve", "serve it until Ctrl-C"),
    ("delugeserve classify YOUR_PHOTO.jpg", "in a second terminal"),
    ("delugeserve benchmark", "latency and throughput"),
    (
        "delugeserve train --model delugenet38 --data PHOTOS/ --output runs/mine",
        "train on your own photographs, one folder per class",
    ),
    ("delugeserve export --checkpoint runs/mine", "export what you trained"),
)


def command(
    seconds: Annotated[
        float,
        typer.Option(
            min=0.5, metavar="SECONDS", help="Measurement time per batch size, in seconds."
        ),
    ] = 3.0,
    json: Json = False,
) -> None:
    """Export a trained model, serve it, classify photographs and measure its latency.

    Uses the pretrained weights of delugenet38; nothing is downloaded. Takes about a minute, stops
    the server and removes its files at the end.
    """
    for module, extra in (("torch", "export"), ("onnx", "export"), ("skimage", "demo")):
        require(module, extra)
    import skimage

    from delugeserve.serving.supervisor import serve
    from delugeserve_client import Classifier

    spec = find_model("delugenet38")
    photos = [Path(str(skimage.__file__)).parent / "data" / name for name in _PHOTOS]
    with (
        tempfile.TemporaryDirectory(prefix="delugeserve-quickstart-") as folder,
        ExitStack() as stack,
    ):
        repository = Path(folder) / "model_repository"
        _report(1, _describe_export(*_export(spec, repository)))
        with show_progress() as progress:
            server = stack.enter_context(
                serve(
                    repository,
                    grpc_port=0,
                    http_port=None,
                    metrics_port=None,
                    direct=True,
                    progress=progress,
                )
            )
        _report(2, f"Started Triton Inference Server at {server.grpc_url}.")
        with Classifier(server.grpc_url, spec.name) as classifier:
            answers = classifier.classify(photos, top_k=2)
        _report(3, f"Classified {len(answers)} photographs.")
        with show_progress(animate=False) as progress:
            measured = _measure(server.grpc_url, spec.name, seconds, progress)
        sizes = " and ".join(str(size) for size in _BATCH_SIZES)
        _report(4, f"Measured latency at batch sizes {sizes}, {seconds:g} s each.")
    _report(5, "Stopped the server and removed the files.")
    if json:
        _print_json(answers, measured)
        return
    _print_answers(answers)
    _print_latency(measured)
    err_console.print("\nNext steps:")
    width = max(len(line) for line, _ in _NEXT)
    for line, comment in _NEXT:
        err_console.print(f"  [bold]{line:<{width}}[/]  [dim]# {comment}[/]")


def _export(spec: ModelSpec, repository: Path) -> tuple[ExportPlan, ExportOutcome]:
    """Export for the fastest runtime, or for ONNX Runtime if this machine cannot run that one."""
    from delugeserve_export import export, plan_export

    with show_progress() as progress:
        plan = plan_export(spec, repository=repository)
        done = export(plan, progress)
        if done.manifest.verification.status == "built, not run":
            _log.warning(
                "This machine cannot run the plan for its GPU (%s). Using ONNX Runtime instead.",
                done.manifest.verification.checks[0].found,
            )
            plan = plan_export(spec, repository=repository, backend="onnxruntime")
            done = export(plan, progress)
    if not done.published:
        raise ParityError(done.problem, done.remedy)
    return plan, done


def _describe_export(plan: ExportPlan, done: ExportOutcome) -> str:
    verification = done.manifest.verification
    agreement = verification.comparisons[-1].top1_agreement
    return (
        f"Exported {plan.spec.name} in {sum(done.seconds.values()):.1f} s. {plan.reason}.\n"
        f"    It predicts the same class as PyTorch for {agreement:.1%} of {verification.images}."
    )


def _report(step: int, text: str) -> None:
    err_console.print(f"[green]{step}/5[/] {escape(text)}")


def _print_answers(answers: list[Classification]) -> None:
    print_table(
        ("photograph", "shows", "prediction"),
        (
            (name, content, ", ".join(f"{p.label} {p.probability:.0%}" for p in answer.predictions))
            for (name, content), answer in zip(_PHOTOS.items(), answers, strict=True)
        ),
        texts=3,
    )


@dataclasses.dataclass(frozen=True)
class _Latency:
    """Latency and throughput with one request in flight."""

    batch_size: int
    p50_ms: float
    p99_ms: float
    images_per_s: float


def _measure(url: str, model: str, seconds: float, progress: Progress) -> list[_Latency]:
    """Measure each batch size. ``delugeserve benchmark`` does more, and needs more packages."""
    import numpy as np

    from delugeserve.load.closed_loop import ClosedLoop
    from delugeserve.load.senders import GrpcSender
    from delugeserve.load.target import prepare_target

    progress.stage("measure", total=len(_BATCH_SIZES))
    target = prepare_target(url, model, batch_size=max(_BATCH_SIZES), check=False)
    measured = []
    for size in _BATCH_SIZES:
        sized = dataclasses.replace(target, batch_size=size)
        with closing(GrpcSender(sized)) as sender:
            loop = ClosedLoop(sender, sized, 1)
            loop.run(_WARMUP)
            samples = loop.run(seconds)
        if not samples.latencies:
            raise Failure(
                f"No request was answered ({samples.first_error}).", "Run the command again."
            )
        p50, p99 = np.percentile(samples.latencies, (50, 99)) * 1e3
        rate = len(samples.latencies) * size / samples.seconds
        measured.append(_Latency(size, *(float(f"{x:.6g}") for x in (p50, p99, rate))))
        progress.advance()
    return measured


def _print_latency(measured: list[_Latency]) -> None:
    print_table(
        ("batch size", "p50 ms", "p99 ms", "images/s"),
        (
            (
                str(row.batch_size),
                f"{row.p50_ms:.2f}",
                f"{row.p99_ms:.2f}",
                f"{row.images_per_s:,.0f}",
            )
            for row in measured
        ),
        title="\nLatency over gRPC, client and server on this machine",
        texts=0,
    )


def _print_json(answers: list[Classification], measured: list[_Latency]) -> None:
    print_json(
        {
            "photographs": {
                name: [{"label": p.label, "probability": p.probability} for p in answer.predictions]
                for name, answer in zip(_PHOTOS, answers, strict=True)
            },
            "latency": [dataclasses.asdict(row) for row in measured],
        }
    )
