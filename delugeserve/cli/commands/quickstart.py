"""``delugeserve quickstart``: the whole chain in one command, leaving nothing running."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delugeserve.cli.render.console import err_console, print_json, print_table
from delugeserve.errors import PlanError, require
from delugeserve.zoo import find_model

if TYPE_CHECKING:
    from delugeserve_client import Classification, Measurement

# CC0 photographs that ship inside scikit-image's wheel, and what they show.
_PHOTOS = {
    "chelsea.png": "a cat",
    "motorcycle_left.png": "a motorcycle, which CIFAR-10 does not know",
    "coffee.png": "a cup of coffee, which CIFAR-10 does not know",
}
_NEXT = (
    "delugeserve export --model delugenet38",
    "delugeserve serve",
    "delugeserve classify YOUR_PHOTO.jpg",
    "delugeserve benchmark --model delugenet38",
    "delugeserve train --model delugenet38 --data cifar10 --output runs/first",
)


def command(
    seconds: Annotated[float, typer.Option(min=0.5, help="How long to measure latency.")] = 3.0,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Export the shipped weights, serve them, classify photographs, measure latency."""
    for module, extra in (("torch", "export"), ("onnx", "export"), ("skimage", "demo")):
        require(module, extra)
    import skimage

    from delugeserve.serving.supervisor import serve
    from delugeserve_client import Classifier
    from delugeserve_client.benchmark import measure
    from delugeserve_export.pipeline import Progress, export
    from delugeserve_export.request import Request

    spec = find_model("delugenet38")
    photos = [Path(str(skimage.__file__)).parent / "data" / name for name in _PHOTOS]
    with tempfile.TemporaryDirectory(prefix="delugeserve-quickstart-") as folder:
        repository = Path(folder) / "model_repository"
        with err_console.status("exporting") as status:
            done = export(Request(spec, repository=repository), Progress(status.update))
        verification = done.manifest.verification
        if verification.status != "passed":
            raise PlanError(
                f"{verification.checks[0].found}.",
                "Mend that, or do without the GPU: delugeserve export --model "
                f"{spec.name} --backend onnxruntime",
            )
        took = sum(done.seconds.values())
        err_console.print(
            f"[green]1[/] exported {spec.name} in {took:.1f} s. {done.reason}.", soft_wrap=True
        )
        err_console.print(
            f"  proved on {verification.images}: the same class on "
            f"{verification.comparisons[-1].top1_agreement:.1%}",
            soft_wrap=True,
        )
        with (
            err_console.status("starting Triton Inference Server"),
            serve(repository, grpc_port=0, http_port=None, metrics_port=None) as server,
        ):
            err_console.print(f"[green]2[/] Triton Inference Server answers at {server.grpc_url}")
            with Classifier(server.grpc_url, spec.name) as classifier:
                answers = classifier.classify(photos, top_k=2)
            err_console.print(f"[green]3[/] classified {len(answers)} photographs")
            measured = measure(
                server.grpc_url,
                spec.name,
                concurrency=[1],
                batch_sizes=[1, 16],
                duration=seconds,
                warmup=0.5,
            )
            err_console.print(
                f"[green]4[/] measured latency for {seconds:.0f} s at two batch sizes"
            )
    err_console.print("[green]5[/] stopped the server; nothing is left running")
    if json:
        _print_json(answers, measured)
        return
    _print_answers(answers)
    _print_latency(measured)
    err_console.print("\nWhat to do next:")
    for line in _NEXT:
        err_console.print(f"  [bold]{line}[/]", soft_wrap=True)


def _print_answers(answers: list[Classification]) -> None:
    print_table(
        ("photograph", "shows", "the network says"),
        (
            (name, content, ", ".join(f"{p.label} {p.probability:.0%}" for p in answer.predictions))
            for (name, content), answer in zip(_PHOTOS.items(), answers, strict=True)
        ),
        texts=3,
    )


def _print_latency(measured: list[Measurement]) -> None:
    print_table(
        ("images a request", "p50 ms", "p99 ms", "images/s"),
        (
            (
                str(row.batch_size),
                f"{row.p50_ms:.2f}",
                f"{row.p99_ms:.2f}",
                f"{row.images_per_s:,.0f}",
            )
            for row in measured
        ),
        title="\nlatency over gRPC, client and server on this machine",
    )


def _print_json(answers: list[Classification], measured: list[Measurement]) -> None:
    print_json(
        {
            "photographs": {
                name: [{"label": p.label, "probability": p.probability} for p in answer.predictions]
                for name, answer in zip(_PHOTOS, answers, strict=True)
            },
            "latency": [
                {
                    "batch_size": row.batch_size,
                    "p50_ms": row.p50_ms,
                    "p99_ms": row.p99_ms,
                    "images_per_s": row.images_per_s,
                }
                for row in measured
            ],
        }
    )
