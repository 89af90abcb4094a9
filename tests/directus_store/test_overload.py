"""Directus slow, overloaded, limited, forgetful: it is left alone, and nothing is written twice (F26–F28)."""

from __future__ import annotations

import asyncio

import pytest

from tests.device import doc
from tests.directus_store.conftest import ServeOn, StartPrepared
from tests.directus_store.crowd import LOOK, all_stored, crowd, in_order, nothing_parked, say, talking
from tests.directus_store.world import Prepared, plugin_of, somebody
from tests.integration.world import settled, until
from tests.services.directus.front import DirectusFront


@pytest.mark.timeout(180)
async def test_f26_a_slow_directus_holds_up_no_draft_and_parks_nothing(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront
) -> None:
    """F26: calls end at their deadline, no more than sixteen wait, and what was carried out all the same is not done twice."""
    people = [somebody() for _ in range(8)]
    async with serve_on(directus, front.url, LOOK) as server, talking(server, people) as devices:
        slow = front.delay(5.0)
        await asyncio.gather(*(say(device, "one", *range(1, 6)) for device in devices))
        for version in range(20):
            base = {"chatId": "one", "content": doc(f"{version}"), "basedOnVersion": version}
            async with asyncio.timeout(4):
                assert (await devices[0].ask("draft_update", base))["type"] == "draft_updated"
        await until(lambda: slow.happened >= 4, 60)
        front.clear()
        await settled(server, 60)
        assert front.most_at_once <= 16
        assert await in_order(directus, people) == 48
        await nothing_parked(server)


@pytest.mark.timeout(180)
async def test_f27_under_pressure_directus_is_left_alone(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront
) -> None:
    """F27: it says 503 without a word of when to come again; calls become few, with jitter, and all is stored afterwards."""
    people = [somebody() for _ in range(6)]
    async with serve_on(directus, front.url, LOOK) as server, talking(server, people) as devices:
        busy = front.refuse(503, "SERVICE_UNAVAILABLE", 10**6, reason="Under pressure")
        await asyncio.gather(*(say(device, "one", *range(1, 11)) for device in devices))
        await asyncio.sleep(10)
        assert 3 <= busy.happened <= 40, "of 60 messages and a look every second"
        await nothing_parked(server)
        front.clear()
        await settled(server, 60)
        assert await in_order(directus, people) == 66


@pytest.mark.timeout(240)
async def test_f27_a_rate_limit_is_kept_to(start_prepared: StartPrepared, serve_on: ServeOn) -> None:
    """F27: the limit counts the sidecar's address, all people together; its `Retry-After` is 0, its `reset` is right."""
    own = await start_prepared()
    await own.server.restart(RATE_LIMITER_ENABLED="true", RATE_LIMITER_POINTS="15", RATE_LIMITER_DURATION="3")
    await asyncio.sleep(3)
    people = [somebody() for _ in range(4)]
    async with DirectusFront(own.server.url) as front, serve_on(own, front.url, LOOK) as server:
        async with crowd(server, people[:1]) as devices:
            await say(devices[0], "one", *range(40))
            await settled(server, 120)
        limited = "REQUESTS_EXCEEDED" in str(plugin_of(server).state()) or len(front.seen) > 15
        assert limited
        await asyncio.sleep(4)
        assert await in_order(own, people) == 40
        await nothing_parked(server)


@pytest.mark.timeout(180)
async def test_f28_answers_lost_after_the_write_make_no_row_twice(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront
) -> None:
    """F28: each of the first forty writes is carried out, and its answer lost."""
    people = [somebody() for _ in range(10)]
    async with serve_on(directus, front.url, LOOK) as server, crowd(server, people) as devices:
        lost = front.swallow(40, of=lambda method, path: method in ("POST", "PATCH") and "chat_" not in path)
        await asyncio.gather(*(say(device, "one", *range(10)) for device in devices))
        await until(lambda: lost.happened >= 10, 90)
        front.clear()
        await all_stored(server, directus, people, 100)
