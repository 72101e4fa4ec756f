"""How much memory does bulk labelling take as the number of pictures grows?

    python benchmarks/bulk_memory.py [--rows 1000000] [--formats jsonl,csv,parquet]

Needs the extra `bulk`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from delugeserve.bulk.items import Item
from delugeserve.bulk.job import Counts
from delugeserve.bulk.journal import Request
from delugeserve.bulk.labelling import ModelIdentity
from delugeserve.bulk.output_file import open_output
from delugeserve_client import Classification, Prediction

METHOD = """The whole path of a run but the server: names of pictures that do not exist are taken
from a generator, a stand-in for the client answers each with five classes, and the rows are written
with their checkpoints and, for parquet, the final file. The resident memory of the process is read
from /proc/self/statm after every tenth of the rows and at the end. It must not grow from the second
tenth on by more than the limit, which leaves room for one row group of a parquet file."""

LIMIT_MIB = 128
MODEL = ModelIdentity("synthetic", "1", "0" * 16)


class Synthetic:
    """Answers at once."""

    model = MODEL

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.memory: list[float] = []

    def label(self, items: Iterable[Item], top_k: int) -> Iterator[Classification]:
        """Yield five classes for each picture, different ones for each."""
        labels = [f"class {index}" for index in range(1000)]
        for number, item in enumerate(items, start=1):
            top = 0.5 + (number * 7919 % 100_000) / 200_000
            yield Classification(
                item.source,
                tuple(
                    Prediction(labels[index], index, round(top / (rank + 1), 6))
                    for rank in range(top_k)
                    for index in [(number * 31 + rank) % 1000]
                ),
            )
            if number % (self._rows // 10) == 0:
                self.memory.append(resident_mib())

    def close(self) -> None:
        """Do nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--formats", default="jsonl,csv,parquet")
    chosen = parser.parse_args()
    print(METHOD, "\n")
    fits = True
    for form in chosen.formats.split(","):
        with tempfile.TemporaryDirectory() as folder:
            fits &= measure(Path(folder) / f"labels.{form}", form, chosen.rows)
    sys.exit(0 if fits else 1)


def measure(path: Path, form: str, rows: int) -> bool:
    """Write an output, print its memory, and return whether that stayed within the limit."""
    request = Request((), form, 5, None, None, "client", "local", MODEL)
    labeller, counts = Synthetic(rows), Counts()
    started = time.monotonic()
    with open_output(path, form) as output:
        names = (f"/data/photos/{number // 1000:06d}/{number:09d}.jpg" for number in range(rows))
        output.label(request, map(Item, names), labeller, counts)
    took = time.monotonic() - started
    memory = [*labeller.memory, resident_mib()]
    grown = max(memory) - memory[1]
    print(f"{form}: {counts.images:,} rows, {path.stat().st_size / 2**20:,.0f} MiB in {took:.0f} s")
    print(f"  MiB after each tenth, and at the end: {', '.join(f'{mib:.0f}' for mib in memory)}")
    print(f"  grown by {grown:.0f} MiB from the second tenth on; limit {LIMIT_MIB}", flush=True)
    return grown <= LIMIT_MIB


def resident_mib() -> float:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
