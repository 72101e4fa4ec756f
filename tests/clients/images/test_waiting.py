import asyncio

from delugeserve_client.images.waiting import Feed


def test_images_of_an_asynchronous_iterable():
    async def given(count):
        for number in range(count):
            await asyncio.sleep(0)
            yield number
        raise LookupError("no more")

    def collect(feed):
        found = []
        try:
            for image in feed:
                found.append(image)
        except LookupError:
            return found
        return None

    async def use():
        return await asyncio.to_thread(collect, Feed(given(50), 4))

    assert asyncio.run(use()) == list(range(50))


def test_closing_an_asynchronous_source_lets_its_thread_end():
    async def endless():
        await asyncio.Event().wait()
        yield 1

    async def use():
        feed = Feed(endless(), 4)
        reading = asyncio.create_task(asyncio.to_thread(list, feed))
        await asyncio.sleep(0.01)
        feed.close()
        return await asyncio.wait_for(reading, 30)

    assert asyncio.run(use()) == []
