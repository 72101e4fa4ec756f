"""Options that several commands share: the same name, type and help text everywhere."""

from __future__ import annotations

import math
import os
import re
import shlex
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer

from delugeserve.artifacts.repository import DEFAULT_REPOSITORY as DEFAULT_REPOSITORY
from delugeserve.errors import RepositoryError, UsageError
from delugeserve.zoo import MODELS

DEFAULT_URL = "localhost:8001"
_MOST_NUMBERS = 10_000  # of a range


def complete_models(incomplete: str) -> list[str]:
    """Complete a model's name."""
    return [name for name in MODELS if name.startswith(incomplete)]


def with_default(text: str, default: str) -> str:
    """Return a help text with a default that is described in words, as typer shows a value."""
    return f"{text} [dim]\\[default: {default}][/]"


MODEL_HELP = "Model name; see: delugeserve models"
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help=MODEL_HELP,
        autocompletion=complete_models,
    ),
]
ServedModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help=with_default("Model name on the server.", "the server's only model"),
        show_default=False,
        autocompletion=complete_models,
    ),
]
PRECISION_HELP = "Precision: 'auto' is bf16 where the hardware has it, otherwise fp32."
TrainingPrecision = Literal["auto", "fp32", "bf16", "fp16"]
RecipeName = Literal["cifar-quick", "cifar-fast", "cifar", "imagenet", "photos", "finetune"]


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Repository = Annotated[Path, typer.Option("--repository", help="Triton model repository.")]
Url = Annotated[
    str,
    typer.Option(
        "--url",
        help="Server address: localhost:8001 for gRPC, http://localhost:8000 for HTTP.",
    ),
]
Timeout = Annotated[
    float,
    typer.Option("--timeout", min=0.1, metavar="SECONDS", help="Time limit for each request."),
]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Save a plot to this PNG or SVG file.")
]
Csv = Annotated[
    Path | None, typer.Option("--csv", metavar="FILE", help="Write the table to this CSV file.")
]
BatchSizes = Annotated[
    str,
    typer.Option(
        "--batch-size",
        metavar="LIST",
        help="Images per request: a list (1,8,32) or a range START:STOP:STEP (1:16:4).",
    ),
]


def complete_stored(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a model in ``--repository``."""
    from delugeserve.artifacts.repository import list_names

    repository = context.params.get("repository") or DEFAULT_REPOSITORY
    try:
        return [name for name in list_names(Path(repository)) if name.startswith(incomplete)]
    except RepositoryError:
        return []


_STORED_MODEL = typer.Argument(
    metavar="MODEL",
    help="Model in the repository.",
    show_default=False,
    autocompletion=complete_stored,
)
StoredModelName = Annotated[str, _STORED_MODEL]
OptionalStoredModel = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help=with_default("Model in the repository.", "all models"),
        show_default=False,
        autocompletion=complete_stored,
    ),
]
VersionNumber = int | None
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would change, and change nothing.")
]
Wait = Annotated[
    bool,
    typer.Option(
        "--wait",
        help="Return when the running server serves the change; exit status 1 if that fails.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Delete, instead of printing what would be.")]


def parse_counts(option: str, text: str) -> list[int]:
    """Parse a list such as ``1,4,16`` or a range as perf_analyzer writes it, ``START:STOP:STEP``.

    Args:
        option: the option's name, for the error.
        text: its value. Duplicates count once; a range includes its end.

    Returns:
        The counts, in the order given.

    Raises:
        UsageError: a part is not a whole number from 1 up, or the range is empty.
    """
    try:
        counts = _parse_list(text, int)
        if min(counts) < 1:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"{option} '{text}' is not a list of whole numbers from 1 up.",
            f"Use {option} 1,8,32, or a range START:STOP:STEP such as {option} 1:16:4.",
        ) from None
    return counts


def parse_rates(option: str, text: str) -> list[float]:
    """Parse a list or a range of numbers above 0; see :func:`parse_counts`.

    Raises:
        UsageError: a part is not such a number, or the range is empty.
    """
    try:
        rates = _parse_list(text, float)
        if not all(0 < rate < math.inf for rate in rates):
            raise ValueError
    except ValueError:
        raise UsageError(
            f"{option} '{text}' is not a list of numbers above 0.",
            f"Use {option} 22.5,100, or a range START:STOP:STEP such as {option} 50:200:50.",
        ) from None
    return rates


_Number = TypeVar("_Number", int, float)


def _parse_list(text: str, kind: type[_Number]) -> list[_Number]:
    """Return the numbers of a list or a range, each once."""
    if ":" not in text:
        return list(dict.fromkeys(kind(part) for part in text.split(",")))
    start, end, step = map(kind, (text if text.count(":") > 1 else f"{text}:1").split(":"))
    if not (0 < start <= end and step > 0 and (end - start) / step < _MOST_NUMBERS):
        raise ValueError
    count = int((end - start) / step + 1e-9) + 1  # 0.1:0.3:0.1 has three
    return [start + n * step for n in range(count)]


_UNITS = {"us": 1, "ms": 1_000, "s": 1_000_000}


def parse_microseconds(option: str, text: str | None) -> int | None:
    """Parse a time such as ``500us``, ``2ms`` or ``1.5s``; None stays None.

    Args:
        option: the option's name, for the error.
        text: its value; ``0`` needs no unit.

    Raises:
        UsageError: it is no time.
    """
    if text is None:
        return None
    if text == "0":
        return 0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", text)
    if match is None:
        raise UsageError(
            f"{option} '{text}' is not a time.", f"Use {option} with a unit: 500us, 2ms or 1s."
        )
    return round(float(match[1]) * _UNITS[match[2]])


def is_given(context: typer.Context, option: str) -> bool:
    """Return whether an option is on the command line, and not from the environment or a default.

    Args:
        context: the command line.
        option: name of its parameter.
    """
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def check_output_file(path: Path) -> None:
    """Check before the work that a file can be written after it.

    Raises:
        UsageError: it is a folder, or its parent folder is missing or not writable.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder.", "Give the name of a file.")
    if not path.parent.is_dir():
        raise UsageError(
            f"There is no folder {path.parent}.",
            f"Create it with: mkdir -p {shlex.quote(str(path.parent))}",
        )
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path.parent} is not writable.", "Choose a file in another folder.")
