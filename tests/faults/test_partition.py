"""One process is cut off from Redis, the others are not: F46."""

from __future__ import annotations

import time
from pathlib import Path

from tests.device import Device, SocketClosed, doc
from tests.faults.world import get, ready, sidecar, sound
from tests.integration.world import begin, chats_of, until
from tests.services.redis_proxy import RedisProxy
from tests.services.redis_server import RedisServer


async def test_f46_a_process_that_is_cut_off_sends_its_clients_to_the_others(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """F46: nothing arrives and nothing ends, as behind a cable that was pulled (the proxy stands for the row's netns): not ready,
    1013 after five seconds, nobody let in; the other process serves them, and nothing that it accepted is told otherwise."""
    async with (
        RedisProxy(redis_server.address) as proxy,
        sidecar(tmp_path, proxy.url) as cut,
        sidecar(tmp_path, redis_server.url, name="other") as fine,
        Device(cut.url) as a,
        Device(fine.url) as b,
    ):
        await a.sync()
        cursor = (await b.sync())[-1]["cursor"]
        await begin(a, "c1", doc("1"))
        await b.event("chat_added")
        proxy.black_hole()
        pulled = time.monotonic()
        lost = {"chatId": "c1", "content": doc("kept by the device"), "basedOnVersion": 1}
        refused = await a.ask("draft_update", lost, "operation-2")
        assert (refused["type"], refused["payload"]["code"]) == ("error", "unavailable")
        assert proxy.seen.held > 0, "the fault happened"

        async def not_ready() -> bool:
            return (await get(cut, "/readyz"))[0] == 503

        await until(not_ready, 10)
        assert (await get(fine, "/readyz"))[0] == 200
        assert (await get(cut, "/livez"))[0] == 200
        a.wait = 20
        assert await a.closed() == 1013
        assert time.monotonic() - pulled > 4, "a short outage sends nobody away"
        await a.close()
        try:
            await a.open()
            raise AssertionError("it was let in")
        except (AssertionError, SocketClosed):
            assert await a.closed() == 1013
        await a.close()

        a.url = fine.url
        await a.open()
        [frame] = await a.sync(cursor=cursor)
        assert [chat["draft"] for chat in frame["chats"]] == [doc("1")]
        accepted = await a.ask("draft_update", lost, "operation-2")
        assert accepted["payload"]["version"] == 2
        assert (await b.event("draft_updated"))["version"] == 2

        proxy.clear()
        await until(lambda: ready(cut), 10)
        async with Device(cut.url) as c:
            assert chats_of(await c.sync())[c.full("c1")]["draft"] == doc("kept by the device")
            edit = {"chatId": "c1", "content": doc("3"), "basedOnVersion": 2}
            assert (await c.ask("draft_update", edit))["payload"]["version"] == 3
            assert (await b.event("draft_updated", lambda event: event["version"] == 3))["content"] == doc("3")
        await sound(redis_server)
