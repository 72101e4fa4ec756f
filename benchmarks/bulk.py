r"""Does `delugeserve classify` end with the same bytes when it, or its server, is killed?

    python benchmarks/bulk.py photos/ --repository model_repository --model delugenet38
    python benchmarks/bulk.py photos/ --repository model_repository --model delugenet38 \
        --kill server
    python benchmarks/bulk.py photos/ --repository model_repository --model delugenet38 \
        --engine ray

Needs the extras `server` and `bulk`, and `ray` for `--engine ray`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METHOD = """A bare server is started on a free port. Each format is written once without being
interrupted. Then it is written again: SIGKILL ends the command (with --kill server: the server,
which is started again), and --resume goes on. Each moment is random, within an eighth of the time
that the first run took, after the next rows were safe (with --engine ray: shortly after the next
chunk was done). At the end the SHA-256 of both files is compared. A run whose server was killed
must end with exit status 1 and without a traceback."""


class Server:
    """A bare tritonserver on the same ports each time."""

    def __init__(self, repository: Path, model: str) -> None:
        self._options = ["--repository", str(repository), "--model", model, "--direct", "--json"]
        self._ports = ["--grpc-port", "0", "--no-http", "--metrics-port", "0"]
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "delugeserve", "serve", *self._options, *self._ports]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self.url = json.loads(line)["grpc"]
        self._ports[1] = self.url.rpartition(":")[2]

    def kill(self) -> None:
        """Kill tritonserver itself; its supervisor notices and ends."""
        children = subprocess.run(
            ["pgrep", "-P", str(self._process.pid)], capture_output=True, text=True
        ).stdout.split()
        for child in children:
            for grandchild in subprocess.run(
                ["pgrep", "-P", child], capture_output=True, text=True
            ).stdout.split():
                os.kill(int(grandchild), signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", help="what to classify")
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--formats", default="jsonl,csv,parquet")
    parser.add_argument("--kill", choices=["client", "server"], default="client")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    print(METHOD, "\n", flush=True)
    moments = random.Random(chosen.seed)
    server = Server(chosen.repository, chosen.model)
    same = True
    try:
        with tempfile.TemporaryDirectory() as folder:
            for form in chosen.formats.split(","):
                same &= compare(Path(folder), form, chosen, server, moments)
    finally:
        server.stop()
    sys.exit(0 if same else 1)


def compare(
    folder: Path, form: str, chosen: argparse.Namespace, server: Server, moments: random.Random
) -> bool:
    """Write a format twice, once interrupted, and print whether the files are the same."""
    whole, parts = folder / f"whole.{form}", folder / f"parts.{form}"
    started = time.monotonic()
    process = classify(whole, chosen, server)
    _, talk = process.communicate()
    took = time.monotonic() - started
    assert process.returncode in (0, 2), talk
    print(f"{form}: uninterrupted in {took:.1f} s: {talk.splitlines()[-1]}", flush=True)
    rows = []
    for _ in range(chosen.kills):
        before = saved(parts)
        process = classify(parts, chosen, server)
        # The start takes much of the time, and a kill during it would show nothing.
        while process.poll() is None and saved(parts) in (before, "no rows", "nothing"):
            time.sleep(0.02)
        share = 0.05 if chosen.engine == "ray" else 0.6 / chosen.kills
        time.sleep(moments.uniform(0, share) * took)
        if process.poll() is not None:
            rows.append("done before")
        elif chosen.kill == "client":
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            rows.append(saved(parts))
        else:
            server.kill()
            _, talk = process.communicate()
            # 2: it had not reached the server yet.
            assert process.returncode == (1 if "safe in" in talk else 2), talk
            assert "Traceback" not in talk, talk
            rows.append(saved(parts))
            server.start()
    process = classify(parts, chosen, server)
    _, talk = process.communicate()
    assert process.returncode in (0, 2), talk
    first, second = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (whole, parts))
    print(f"{form}: safe after each kill of the {chosen.kill}: {', '.join(rows)}")
    print(f"{form}: resumed: {talk.splitlines()[-1]}")
    print(f"{form}: {whole.stat().st_size:,} bytes, {first[:16]} and {second[:16]}: "
          f"{'the same' if first == second else 'DIFFERENT'}\n", flush=True)  # fmt: skip
    return first == second


def classify(output: Path, chosen: argparse.Namespace, server: Server) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "delugeserve", "classify", chosen.images, "--resume"]
    command += ["--url", server.url, "--model", chosen.model, "--output", str(output)]
    command += ["--engine", chosen.engine]
    if chosen.kill == "server":
        command += ["--timeout", "3"]  # which is how long it waits for a server that is gone
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def saved(output: Path) -> str:
    """Return what the journal says is safe."""
    folder = output.with_name(output.name + ".incomplete")
    chunks = list((folder / "checkpoint").glob("*[0-9].parquet"))
    if chunks:
        return f"{len(chunks)} chunks"
    try:
        text = (folder / "journal.jsonl").read_text()
    except FileNotFoundError:
        return "nothing"
    found = re.findall(r'"rows": (\d+)', text)
    return f"{int(found[-1]):,} rows" if found else "no rows"


if __name__ == "__main__":
    main()
