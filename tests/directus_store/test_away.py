"""Directus is away: nothing accepted is lost, doubled or parked for want of patience (F25, S29, S72)."""

from __future__ import annotations

import asyncio

import pytest

from tests.device import doc
from tests.directus_store.conftest import ServeOn, StartPrepared
from tests.directus_store.crowd import LOOK, all_stored, nothing_parked, say, talking
from tests.directus_store.world import somebody


@pytest.mark.timeout(240)
async def test_f25_s29_s72_directus_killed_under_200_sends_and_back_later(
    start_prepared: StartPrepared, serve_on: ServeOn
) -> None:
    """F25, S29, S72: drafts go on, messages are queued, no try is counted and nothing parked; exactly 200 rows afterwards."""
    own = await start_prepared()
    people = [somebody() for _ in range(10)]
    async with serve_on(own, options=LOOK) as server, talking(server, people) as devices:
        own.server.kill()
        await asyncio.gather(*(say(device, "one", *range(1, 20)) for device in devices))
        draft = {"tempChatId": "two", "content": doc("while it is away"), "basedOnVersion": 0}
        answer = await devices[0].ask("draft_update", draft)
        assert answer["type"] == "chat_initiated", answer
        await asyncio.sleep(10)
        outbox = server.context.parts.cache.outbox
        assert (await outbox.positions())["persistence"].pending >= 190
        await nothing_parked(server)
        await own.server.start()
        await all_stored(server, own, people, 200)
        counted = server.context.parts.metrics.delivered.labels("persistence", "failed")._value.get()
        assert counted == 0, "no try was counted"
        assert all(device.close_code is None for device in devices), "no socket was closed"
