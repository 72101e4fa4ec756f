"""``delugeserve classify``: what a running server sees in images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delugeserve.cli.render.console import err_console, print_json, print_table

if TYPE_CHECKING:
    from delugeserve_client import Classification, ImageError, Prediction

_BAR_WIDTH = 12


def command(
    paths: Annotated[
        list[Path], typer.Argument(help="Images, and folders of images.", show_default=False)
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Model name on the server.",
            show_default="the server's only model",
        ),
    ] = None,
    url: Annotated[
        str, typer.Option(help="The server: localhost:8001 or http://localhost:8000.")
    ] = "localhost:8001",
    top_k: Annotated[int, typer.Option(min=1, help="How many classes to name.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Classify images with a running server."""
    import warnings

    from PIL import Image
    from rich.progress import track

    from delugeserve_client import Classifier

    # Images of this size are refused, by name; Pillow need not warn of them besides.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    files = list(_files(paths))
    with Classifier(url, model) as classifier:
        results = list(
            track(
                classifier.stream(files, top_k, on_error="return"),
                description="classifying",
                total=len(files),
                console=err_console,
                transient=True,
                disable=not err_console.is_terminal or len(files) < 2,
            )
        )
    errors = [result.error for result in results if result.error is not None]
    if json:
        print_json([_describe(result) for result in results])
    elif len(errors) < len(results):
        _print_table(results)
    _report(errors)
    if errors or not results:
        raise typer.Exit(2)


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    """The images that paths name: files as they are, folders by what lies below them, sorted."""
    from delugeserve_client.formats import is_image_file

    for path in paths:
        if not path.is_dir():
            yield path
            continue
        below = sorted(file for file in path.rglob("*") if is_image_file(file))
        # An empty folder stays in the list, and is reported as what it is.
        yield from (file for file in below if file.is_file()) if below else (path,)


def _print_table(results: list[Classification]) -> None:
    from rich.text import Text

    answered = [result for result in results if result.predictions]
    print_table(
        ("image", "label", "probability", "then"),
        (
            (
                Text(result.source),
                Text(result.top.label, "bold"),
                Text(_bar(result.top)),
                Text(", ".join(f"{p.label} {_percent(p)}" for p in result.predictions[1:]), "dim"),
            )
            for result in answered
        ),
        texts=4,
    )


def _bar(prediction: Prediction) -> str:
    filled = round(prediction.probability * _BAR_WIDTH)
    return f"{'━' * filled}{' ' * (_BAR_WIDTH - filled)} {_percent(prediction):>7}"


def _percent(prediction: Prediction) -> str:
    return f"{100 * prediction.probability:.1f}\u00a0%"  # no line break in between


def _report(errors: list[ImageError]) -> None:
    from rich.markup import escape

    for error in errors:
        err_console.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)


def _describe(result: Classification) -> dict[str, Any]:
    if result.error is not None:
        return {"source": result.source, "error": str(result.error)}
    return {
        "source": result.source,
        "predictions": [
            {"label": p.label, "index": p.index, "probability": p.probability}
            for p in result.predictions
        ],
    }
