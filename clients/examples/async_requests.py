"""Classify one image many times at once with asyncio."""

import argparse
import asyncio
import sys
import time

from delugeserve_client import AsyncClassifier, ClientError

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("image")
parser.add_argument("--url", default="localhost:8001", help="server's gRPC address (%(default)s)")
parser.add_argument("--model", help="model name (the server's only model)")
parser.add_argument("--requests", type=int, default=100, help="number of requests (%(default)s)")
parser.add_argument("--at-once", type=int, default=16, help="requests in flight (%(default)s)")


async def main(arguments: argparse.Namespace) -> None:
    slots = asyncio.Semaphore(arguments.at_once)
    async with AsyncClassifier(arguments.url, arguments.model) as classifier:

        async def classify() -> str:
            async with slots:
                (result,) = await classifier.classify([arguments.image], top_k=1)
                return result.top.label

        start = time.perf_counter()
        labels = await asyncio.gather(*(classify() for _ in range(arguments.requests)))
        seconds = time.perf_counter() - start
    print(f"{len(labels)} requests in {seconds:.2f} s: {', '.join(sorted(set(labels)))}")


try:
    asyncio.run(main(parser.parse_args()))
except ClientError as error:
    sys.exit(f"error: {error}")
