"""What the benchmarks of reliability have in common: options, and a server under load."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import common
from chaos_repository import KnownModel, make_repository
from chaos_server import Server, full_strength


def options(description: str | None) -> argparse.ArgumentParser:
    """Return the options that they have in common.

    Args:
        description: the docstring of the script.
    """
    parser = common.options(description or "", rounds=1, seconds=3.0)
    parser.add_argument("--clients", type=int, default=16, help="default: 16")
    parser.add_argument(
        "--pause", type=float, default=0.0, help="seconds between a client's requests (default: 0)"
    )
    parser.add_argument(
        "--repository", type=Path, help="keep the exported models in this folder, and reuse them"
    )
    parser.add_argument("--clothing", help="data set of delugenet32_clothing, for its pictures")
    return parser


@contextlib.contextmanager
def prepared(
    chosen: argparse.Namespace, options: Sequence[str] = ()
) -> Iterator[tuple[Server, list[KnownModel]]]:
    """Export the models, serve them, and yield the server at full strength with what is right.

    Args:
        chosen: the options given.
        options: more options of ``serve``.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repository = chosen.repository or folder / "repository"
        sources = {"delugenet32_clothing": chosen.clothing} if chosen.clothing else {}
        models = make_repository(repository, sources=sources, report=common.err_console.print)
        with Server(repository, folder, options) as server:
            server.wait_for("full strength", full_strength)
            yield server, models
