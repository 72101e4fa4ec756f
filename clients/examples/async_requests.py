"""Many classifications at once with asyncio: python async_requests.py IMAGE [MODEL] [URL]."""

import asyncio
import sys
import time

from delugeserve_client import AsyncClassifier

REQUESTS = 100
AT_ONCE = 16


async def main(image: str, model: str = "delugenet38", url: str = "localhost:8001") -> None:
    async with AsyncClassifier(url, model) as classifier:
        slots = asyncio.Semaphore(AT_ONCE)

        async def classify() -> str:
            async with slots:
                (result,) = await classifier.classify([image], top_k=1)
                return result.top.label

        start = time.perf_counter()
        labels = await asyncio.gather(*(classify() for _ in range(REQUESTS)))
        seconds = time.perf_counter() - start
        print(f"{len(labels)} times {labels[0]} in {seconds:.2f} s")


asyncio.run(main(*sys.argv[1:]))
